"""`/healthz`: this process lives. `/readyz`: what it needs is there."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from tunesmith.service.blobs.objects import StoreUnavailable
from tunesmith.service.database import migrate
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.web.dependencies import AnnouncerDep, BlobsDep, DatabaseDep
from tunesmith.tuning.api.health import Health, Readiness

router = APIRouter(tags=["health"])

_PATIENCE_SECONDS = 5
_SAID_BY_POSTGRESQL = {
    "password": "it refuses the user or the password: look at DATABASE_URL",
    "does not exist": "there is no such user or database: look at DATABASE_URL",
    "too many clients": "it has no connection left: look at TUNESMITH_POOL_SIZE and its max_connections",
    "remaining connection slots": "it has no connection left: look at TUNESMITH_POOL_SIZE and its max_connections",
}


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Health:
    """Always ok while requests are answered."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
async def readyz(
    request: Request, response: Response, database: DatabaseDep, blobs: BlobsDep, announcer: AnnouncerDep
) -> Readiness:
    """503 with the reason while database, schema or object store is not usable. The broker is only reported.

    The answer may be a second old: whoever has no key cannot make this service look more often.
    """
    head, has_broker = request.app.state.schema_head, request.app.state.settings.redis_url is not None
    last: LastLook = request.app.state.last_look
    readiness = await last.of(lambda: _look(database, blobs, announcer, head=head, has_broker=has_broker))
    response.status_code = 200 if readiness.status == "ready" else 503
    return readiness


class LastLook:
    """The last answer, for as long as it is fresh. Never are two looks under way at once."""

    def __init__(self, *, fresh_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._lock = asyncio.Lock()
        self._seen: tuple[float, Readiness] | None = None

    async def of(self, look: Callable[[], Awaitable[Readiness]]) -> Readiness:
        """What `look` said a moment ago, or says now."""
        async with self._lock:
            if self._seen is None or self._clock() - self._seen[0] >= self._fresh_seconds:
                readiness = await look()
                self._seen = self._clock(), readiness
            return self._seen[1]


async def clock_ahead_seconds(database: Database, *, clock: Callable[[], float] = time.time) -> float:
    """By how much the database's clock is ahead of this host's."""
    async with database.transaction() as session:
        await session.connection()  # which it may have to wait for
        before = clock()
        at = await now(session)
        return at.timestamp() - (before + clock()) / 2


async def _look(
    database: DatabaseDep, blobs: BlobsDep, announcer: AnnouncerDep, *, head: str, has_broker: bool
) -> Readiness:
    checks = {
        "database": await _ask(_schema_problem(database, head=head)),
        "store": await _ask(_store_problem(blobs)),
    }
    broker = await _broker(announcer) if has_broker else "none: workers ask over HTTP"
    ready = all(problem == "ok" for problem in checks.values())
    return Readiness(
        status="ready" if ready else "not_ready",
        version=version("tunesmith"),
        checks={**checks, "broker": broker},
        database_clock_ahead_seconds=await _unless_away(clock_ahead_seconds(database)),
        store_free_bytes=await blobs.free_bytes(),
    )


async def _broker(announcer: AnnouncerDep) -> str:
    if await run_in_threadpool(announcer.reachable):
        return "ok"
    return "away: workers ask over HTTP meanwhile"


async def _ask(question: Awaitable[str]) -> str:
    try:
        return str(await asyncio.wait_for(question, _PATIENCE_SECONDS))
    except TimeoutError:
        return f"no answer in {_PATIENCE_SECONDS} s"
    except Exception as error:  # whatever is wrong with it, it is not ready
        return _in_words(error)


def _in_words(error: Exception) -> str:
    """What whoever has no key may know: nothing of addresses, users or tables. The log has the rest."""
    if isinstance(error, StoreUnavailable | OSError):
        return "it cannot be used: look at TUNESMITH_STORE"
    if not isinstance(error, SQLAlchemyError):
        return type(error).__name__
    said = str(error)
    for sign, words in _SAID_BY_POSTGRESQL.items():
        if sign in said:
            return words
    return "it cannot be reached: is it running, and is DATABASE_URL right?"


async def _unless_away(question: Awaitable[float]) -> float | None:
    """Why there is no answer, the check of the database says."""
    try:
        return round(await asyncio.wait_for(question, _PATIENCE_SECONDS), 1)
    except Exception:
        return None


async def _schema_problem(database: DatabaseDep, *, head: str) -> str:
    async with database.transaction() as session:
        current = await (await session.connection()).run_sync(migrate.current)
    return "ok" if current == head else migrate.problem(current) or "ok"


async def _store_problem(blobs: BlobsDep) -> str:
    await blobs.probe()
    return "ok"
