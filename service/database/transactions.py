"""The database: one engine, one transaction per request, and the database's own clock."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from select import POLLIN, poll
from typing import Any, TypeVar

import psycopg
from psycopg import waiting
from psycopg.abc import PQGen
from pydantic_core import from_json, to_json
from sqlalchemy import URL, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from tunesmith.service.database.tables import ApiKey, Job

_T = TypeVar("_T")
Clock = Callable[[AsyncSession], Awaitable[datetime]]  # the time of a transaction; `now` unless somebody moves it
Changed = set[tuple[type[ApiKey | Job], str]]
_NOW = select(func.now())
_MOST_STATEMENTS = 3  # that may take as long as one may, before a connection is given up


def driver_url(database_url: str) -> URL:
    """Turn a libpq URL (`postgresql://host/db`, `postgresql:///db?host=/dir`) into SQLAlchemy's for psycopg 3."""
    return make_url(database_url).set(drivername="postgresql+psycopg")


def create_engine(
    database_url: str, *, pool_size: int, pool_wait_seconds: float, statement_seconds: float = 30
) -> AsyncEngine:
    """A pool that looks at each connection before it lends it out, so that a restarted server is not an error.

    It keeps every connection that it opens: another would cost a log-in, and PostgreSQL a process. No statement takes
    longer than `statement_seconds` there, nor a second more here, whatever became of the server and the network.
    """
    engine = create_async_engine(
        driver_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_seconds,
        pool_recycle=1800,
        json_serializer=_to_json,
        json_deserializer=from_json,
        hide_parameters=True,  # of errors, which end in logs: a parameter may be a secret
        connect_args={
            "async_creator_fn": _BoundedConnection.connect,
            "connect_timeout": 5,
            "application_name": "tunesmith-service",
            # A request that waits this long for a row is stuck; the client hears 503 and tries again. A server that
            # hears no more of a transaction lets its rows go while the leases of running jobs still have half their
            # time.
            "options": f"-c lock_timeout={statement_seconds * 800:.0f}"
            f" -c statement_timeout={statement_seconds * 1000:.0f} -c idle_in_transaction_session_timeout=30000",
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
        },
    )
    event.listen(engine.sync_engine, "checkout", partial(_lend, statement_seconds=statement_seconds))
    return engine


class _BoundedConnection(psycopg.AsyncConnection[Any]):
    """Given up when its server says nothing for too long: it may be frozen, or the network between may swallow all.

    TCP tells of neither: a frozen server's kernel and a proxy go on to acknowledge what is sent.
    """

    silence_seconds = 10.0
    lent_until = float("inf")  # by the monotonic clock; of a slow connection, each of whose answers comes in time

    async def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:  # noqa: ASYNC109
        left = min(self.silence_seconds, self.lent_until - time.monotonic())
        try:
            async with asyncio.timeout(timeout or max(0.0, left)):
                return await waiting.wait_async(gen, self.pgconn.socket, interval=interval)
        except TimeoutError as error:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer") from error
        except asyncio.CancelledError:  # asking the server to cancel would be another wait for it
            self.pgconn.finish()
            raise


def _to_json(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="constants")  # which the database refuses, rather than storing another number


def _lend(connection: Any, _record: Any, _proxy: Any, *, statement_seconds: float) -> None:
    """Nothing is due on an idle connection: what lies there is the server's farewell. Looking costs no round trip."""
    driver = connection.driver_connection
    if driver.closed or _is_readable(driver.fileno()):
        raise DisconnectionError
    driver.silence_seconds = statement_seconds + 1
    driver.lent_until = time.monotonic() + _MOST_STATEMENTS * driver.silence_seconds


def _is_readable(descriptor: int) -> bool:
    look = poll()
    look.register(descriptor, POLLIN)
    return bool(look.poll(0))


class Database:
    """Hands out sessions. Application code never commits: `transaction` does, once, at its end.

    A query does not flush what is pending: a finished job must reach the database in one statement, state and all,
    because the database refuses any change after it. What must be seen by a query is flushed by name.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(
            engine, sync_session_class=_NotingSession, expire_on_commit=False, autoflush=False
        )
        self._statements = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._listeners: list[tuple[type[ApiKey | Job], Callable[[str], None]]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        async with self._sessions() as session:
            async with session.begin():
                yield session
            self._tell(session.info.get(_CHANGED, set()))

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reads that need no common moment: each statement is its own transaction."""
        async with self._statements.connect() as connection:
            yield connection

    def on_change(self, kind: type[ApiKey | Job], listener: Callable[[str], None]) -> None:
        """Call `listener` with the id of every row of this kind that a transaction of ours has changed, once it holds.

        It hears nothing of what other processes change.
        """
        self._listeners.append((kind, listener))

    def _tell(self, changed: Changed) -> None:
        for kind, row_id in changed:
            for wanted, listener in self._listeners:
                if kind is wanted:
                    listener(row_id)

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


_CHANGED = "changed"
_ANSWERS = "answers"


class _NotingSession(Session):
    """Notes which jobs and keys it has changed, for whoever keeps a copy of them."""

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """As ever."""
        noted: Changed = self.info.setdefault(_CHANGED, set())
        noted.update((type(row), row.id) for row in self.dirty if isinstance(row, ApiKey | Job))
        super().flush(objects)


def is_away(error: Exception) -> bool:
    """Whether the database is away or busy for the moment, rather than unable to do what it was asked."""
    if isinstance(error, PoolTimeoutError | OperationalError | OSError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


async def now(session: AsyncSession) -> datetime:
    """The start of this transaction by the database's clock, the only clock that leases are measured by."""
    moment: datetime = (await session.execute(_NOW)).scalar_one()
    return moment


async def once(session: AsyncSession, question: Hashable, ask: Callable[[], Awaitable[_T]]) -> _T:
    """What `ask` said the first time in this transaction. An error is no answer: the next one asks again."""
    answers = session.info.setdefault(_ANSWERS, {})
    if question not in answers:
        answers[question] = await ask()
    answer: _T = answers[question]
    return answer
