"""`/internal/workers` for workers, `/v1/workers` for people."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from tunesmith.service.audit import store as audit
from tunesmith.service.audit.actions import Action
from tunesmith.service.database.tables import Attempt, WorkerNode
from tunesmith.service.web.auth import AdminKey, WorkerKey
from tunesmith.service.web.bodies import json_body
from tunesmith.service.web.dependencies import DbSession, SettingsDep, WakesDep
from tunesmith.service.workers import quarantine, registry, store
from tunesmith.tuning.api.workers import WorkerList, WorkerObject
from tunesmith.tuning.messages import Wakes, WorkerHeartbeat

router = APIRouter(tags=["workers"])
internal_router = APIRouter(prefix="/internal", include_in_schema=False)

_LONGEST_WAIT_SECONDS = 60


@internal_router.get("/wakes")
async def wait_for_wakes(
    _caller: WorkerKey,
    wakes: WakesDep,
    *,
    worker_class: Annotated[str, Query(max_length=200)],
    seen: int | None = None,
    wait: Annotated[float, Query(ge=0, le=_LONGEST_WAIT_SECONDS)] = 0,
) -> Wakes:
    """Wake-ups of a worker class, for a worker that no broker reaches. What is there to do, a claim decides."""
    woken = await wakes.next_wake(worker_class, seen=seen, seconds=wait)
    return Wakes(seen=woken.seen, wakes=woken.wakes)


@internal_router.post("/workers/{worker_id}/heartbeat", status_code=204)
async def worker_heartbeat(
    worker_id: str,
    caller: WorkerKey,
    report: Annotated[WorkerHeartbeat, json_body(WorkerHeartbeat, strict=False)],
    session: DbSession,
) -> Response:
    """A worker process lives."""
    await registry.beat(session, worker_id, report, lineage=caller.lineage)
    return Response(status_code=204)


@router.get("/v1/workers")
async def list_workers(_caller: AdminKey, session: DbSession, settings: SettingsDep) -> WorkerList:
    """Live workers, their hardware and what they work on. Admins only."""
    workers = await store.find_live(session, silence=settings.worker_silence)
    attempts = await store.open_attempts(session, [worker.id for worker in workers])
    return WorkerList(data=[_worker_object(worker, attempts) for worker in workers])


@router.delete("/v1/workers/{worker_id}/quarantine", status_code=204)
async def release_worker(
    caller: AdminKey,
    worker_id: Annotated[str, Path(description="Id of the worker, as the list has it.")],
    session: DbSession,
) -> Response:
    """Let a worker that spoilt attempt after attempt have jobs again. Admins only."""
    await quarantine.release(session, worker_id)
    audit.record(session, caller.actor, Action.WORKER_TRUSTED, worker_id)
    return Response(status_code=204)


def _worker_object(worker: WorkerNode, attempts: list[Attempt]) -> WorkerObject:
    jobs = [attempt.job_id for attempt in attempts if attempt.worker_id == worker.id]
    return WorkerObject(
        id=worker.id,
        hostname=worker.hostname,
        version=worker.version,
        worker_class=worker.worker_class,
        hardware=worker.hardware_now,
        slots=worker.slots,
        busy_slots=worker.busy_slots,
        draining=worker.draining,
        quarantined_until=_seconds(worker.quarantined_until),
        quarantine_reason=worker.quarantine_reason,
        job=jobs[0] if jobs else None,
        jobs=jobs,
        registered_at=int(worker.registered_at.timestamp()),
        last_seen_at=int(worker.last_seen_at.timestamp()),
    )


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
