"""Which workers there are, and which start of each: every call of a worker says by which start it was made."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import WorkerNode
from tunesmith.service.database.transactions import now
from tunesmith.service.keys.worker_ids import check_owner, taken
from tunesmith.service.workers import store
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import RegisterWorker, WorkerHeartbeat


async def record_start(session: AsyncSession, request: RegisterWorker, *, lineage: str) -> WorkerNode:
    """The worker's row, made or brought up to date, and locked. It is that of the caller's keys from now on.

    Raises:
        Forbidden: another key, which is valid, registered this id.
    """
    if not await store.upsert(session, request, lineage=lineage):
        raise taken(request.worker_id)
    worker = await store.lock(session, request.worker_id)
    if worker is None:
        raise NotFound(f"Worker {request.worker_id!r:.120} is not registered.", param="worker_id")
    return worker


async def beat(session: AsyncSession, worker_id: str, report: WorkerHeartbeat, *, lineage: str) -> None:
    """The worker lives; remember its hardware as it is now.

    Raises:
        NotFound: it is not registered, or another start of it is.
        Forbidden: another key registered it.
    """
    worker = await require(session, worker_id, incarnation=report.incarnation, lineage=lineage)
    worker.hardware_now = report.hardware.model_dump(mode="json")
    worker.busy_slots = report.busy_slots
    worker.draining = report.draining
    worker.last_seen_at = await now(session)


async def require(session: AsyncSession, worker_id: str, *, incarnation: str, lineage: str) -> WorkerNode:
    """The registered worker, locked.

    Raises:
        NotFound: it is not registered, or another start of it is.
        Forbidden: another key registered it.
    """
    worker = await store.lock(session, worker_id)
    if worker is None or worker.incarnation != incarnation:
        message = f"Worker {worker_id!r:.120} is not registered as this incarnation."
        raise NotFound(message, code=ErrorCode.WORKER_NOT_REGISTERED, param="worker_id", hint="Register again.")
    check_owner(worker, lineage)
    return worker
