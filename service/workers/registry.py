"""Workers introduce themselves and say that they live."""

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.attempts.ending import Policy, lose
from tunesmith.service.db import now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.tables import WorkerNode
from tunesmith.service.workers import store
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import RegisterWorker, WorkerHeartbeat
from tunesmith.tuning.planner.checks import check_hardware


async def register(session: AsyncSession, request: RegisterWorker, *, policy: Policy) -> WorkerNode:
    """Record a start of a worker. What an earlier start of the same worker held is lost at once, not after its lease.

    Raises:
        InvalidRequest: the hardware cannot be what it claims.
    """
    check_hardware(request.hardware)
    await session.execute(_upsert(request))
    worker = await _locked(session, request.worker_id)
    moment = await now(session)
    for attempt in await store.open_attempts(session, [worker.id]):
        if attempt.incarnation != request.incarnation:
            job = await jobs.lock(session, attempt.job_id)
            await session.refresh(attempt)
            reason = f"Worker {worker.id} started again while it held this attempt."
            lose(session, job, attempt, at=moment, reason=reason, policy=policy)
    return worker


async def beat(session: AsyncSession, worker_id: str, report: WorkerHeartbeat) -> None:
    """The worker lives; remember its hardware as it is now.

    Raises:
        NotFound: it is not registered, or another start of it is.
    """
    worker = await require(session, worker_id, incarnation=report.incarnation)
    worker.hardware_now = report.hardware.model_dump(mode="json")
    worker.busy_slots = report.busy_slots
    worker.draining = report.draining
    worker.last_seen_at = await now(session)


async def require(session: AsyncSession, worker_id: str, *, incarnation: str) -> WorkerNode:
    """The registered worker, locked.

    Raises:
        NotFound: it is not registered, or another start of it is.
    """
    worker = await store.lock(session, worker_id)
    if worker is None or worker.incarnation != incarnation:
        message = f"Worker {worker_id!r:.120} is not registered as this incarnation."
        raise NotFound(message, code="worker_not_registered", param="worker_id", hint="Register again.")
    return worker


async def _locked(session: AsyncSession, worker_id: str) -> WorkerNode:
    worker = await store.lock(session, worker_id)
    if worker is None:
        raise NotFound(f"Worker {worker_id!r:.120} is not registered.", param="worker_id")
    return worker


def _upsert(request: RegisterWorker) -> Insert:
    hardware = request.hardware.model_dump(mode="json")
    facts = {
        "incarnation": request.incarnation,
        "hostname": request.hostname,
        "version": request.version,
        "worker_class": request.hardware.worker_class,
        "hardware": hardware,
        "hardware_now": hardware,
        "slots": request.slots,
        "busy_slots": 0,
        "draining": False,
        "registered_at": func.now(),
        "last_seen_at": func.now(),
        "rung_at": None,
    }
    row = insert(WorkerNode).values(id=request.worker_id, **facts)
    return row.on_conflict_do_update(index_elements=[WorkerNode.id], set_=facts)
