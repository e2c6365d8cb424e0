"""The database: one engine, one transaction per request, and the database's own clock."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import URL, func, make_url, select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine


def driver_url(database_url: str) -> URL:
    """Turn a libpq URL (`postgresql://host/db`, `postgresql:///db?host=/dir`) into SQLAlchemy's for psycopg 3."""
    return make_url(database_url).set(drivername="postgresql+psycopg")


def create_engine(database_url: str, *, pool_size: int, pool_wait_seconds: float) -> AsyncEngine:
    """A pool that tests each connection before it lends it out, so that a restarted server is not an error."""
    return create_async_engine(
        driver_url(database_url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=pool_wait_seconds,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={
            "connect_timeout": 5,
            "application_name": "tunesmith-service",
            # A request that waits this long for a row is stuck; the client hears 503 and tries again.
            "options": "-c lock_timeout=15000 -c statement_timeout=30000 -c idle_in_transaction_session_timeout=60000",
        },
    )


class Database:
    """Hands out sessions. Application code never commits: `transaction` does, once, at its end.

    A query does not flush what is pending: a finished job must reach the database in one statement, state and all,
    because the database refuses any change after it. What must be seen by a query is flushed by name.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._sessions = async_sessionmaker(engine, expire_on_commit=False, autoflush=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises."""
        async with self._sessions() as session, session.begin():
            yield session

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def is_away(error: Exception) -> bool:
    """Whether the database is away or busy for the moment, rather than unable to do what it was asked."""
    if isinstance(error, PoolTimeoutError | OperationalError | OSError):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


async def now(session: AsyncSession) -> datetime:
    """The start of this transaction by the database's clock, the only clock that leases are measured by."""
    moment: datetime = (await session.execute(select(func.now()))).scalar_one()
    return moment
