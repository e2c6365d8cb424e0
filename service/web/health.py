"""`/healthz`: this process lives. `/readyz`: what it needs is there."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from tunesmith.service.database import migrate
from tunesmith.service.web.dependencies import AnnouncerDep, BlobsDep, DatabaseDep
from tunesmith.tuning.api.health import Health, Readiness

router = APIRouter(tags=["health"])

_PATIENCE_SECONDS = 5


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
        checks={**checks, "broker": broker},
        store_free_bytes=await blobs.free_bytes(),
    )


async def _broker(announcer: AnnouncerDep) -> str:
    if await run_in_threadpool(announcer.reachable):
        return "ok"
    return "away: workers that listen to it hear of new jobs when it is back"


async def _ask(question: Awaitable[str]) -> str:
    try:
        return str(await asyncio.wait_for(question, _PATIENCE_SECONDS))
    except TimeoutError:
        return f"no answer in {_PATIENCE_SECONDS} s"
    except Exception as error:  # whatever is wrong with it, it is not ready
        return type(error).__name__


async def _schema_problem(database: DatabaseDep, *, head: str) -> str:
    async with database.transaction() as session:
        current = await (await session.connection()).run_sync(migrate.current)
    if current == head:
        return "ok"
    return f"the schema is at {current}, this program needs {head}: run `tunesmith-service migrate`"


async def _store_problem(blobs: BlobsDep) -> str:
    await blobs.probe()
    return "ok"
