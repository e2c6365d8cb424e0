"""`/internal/workers` for workers, `/v1/workers` for people."""

from typing import Annotated

from fastapi import APIRouter, Response

from tunesmith.service.database.tables import Attempt, WorkerNode
from tunesmith.service.web.auth import AdminKey, WorkerKey
from tunesmith.service.web.bodies import json_body
from tunesmith.service.web.dependencies import DbSession, SettingsDep
from tunesmith.service.workers import registry, store
from tunesmith.tuning.api.workers import WorkerList, WorkerObject
from tunesmith.tuning.messages import WorkerHeartbeat

router = APIRouter(tags=["workers"])
internal_router = APIRouter(prefix="/internal/workers", include_in_schema=False)


@internal_router.post("/{worker_id}/heartbeat", status_code=204)
async def worker_heartbeat(
    worker_id: str,
    _caller: WorkerKey,
    report: Annotated[WorkerHeartbeat, json_body(WorkerHeartbeat, strict=False)],
    session: DbSession,
) -> Response:
    """A worker process lives."""
    await registry.beat(session, worker_id, report)
    return Response(status_code=204)


@router.get("/v1/workers")
async def list_workers(_caller: AdminKey, session: DbSession, settings: SettingsDep) -> WorkerList:
    """Live workers, their hardware and what they work on. Admins only."""
    workers = await store.find_live(session, silence=settings.worker_silence)
    attempts = await store.open_attempts(session, [worker.id for worker in workers])
    return WorkerList(data=[_worker_object(worker, attempts) for worker in workers])


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
        job=jobs[0] if jobs else None,
        jobs=jobs,
        registered_at=int(worker.registered_at.timestamp()),
        last_seen_at=int(worker.last_seen_at.timestamp()),
    )
