"""`/healthz`: this process lives. `/readyz`: what it needs is there."""

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from tunesmith.service.database import migrate
from tunesmith.service.web.dependencies import AnnouncerDep, BlobsDep, DatabaseDep
from tunesmith.tuning.api.health import Health, Readiness

router = APIRouter(tags=["health"])

_PATIENCE_SECONDS = 5


@router.get("/healthz")
async def healthz() -> Health:
    """Always ok while requests are answered."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Not ready."}})
async def readyz(
    request: Request, response: Response, database: DatabaseDep, blobs: BlobsDep, announcer: AnnouncerDep
) -> Readiness:
    """503 with the reason while database, schema or object store is not usable. The broker is only reported."""
    checks = {
        "database": await _ask(_schema_problem(database, head=request.app.state.schema_head)),
        "store": await _ask(_store_problem(blobs)),
    }
    broker = (
        "ok" if await run_in_threadpool(announcer.reachable) else "away: jobs are taken in, and start when it is back"
    )
    ready = all(problem == "ok" for problem in checks.values())
    response.status_code = 200 if ready else 503
    return Readiness(
        status="ready" if ready else "not_ready",
        checks={**checks, "broker": broker},
        store_free_bytes=await blobs.free_bytes(),
    )


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
