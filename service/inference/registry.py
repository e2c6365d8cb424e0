"""Which inference workers there are, and which start of each."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.inference_tables import InferenceWorker
from tunesmith.service.database.transactions import now
from tunesmith.service.inference import store
from tunesmith.service.keys.worker_ids import check_owner, taken
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.inference_messages import InferenceHeartbeat, RegisterInferenceWorker


async def record_start(session: AsyncSession, request: RegisterInferenceWorker, *, lineage: str) -> None:
    """The worker has started, and is that of the caller's keys from now on.

    Raises:
        Forbidden: another key, which is valid, registered this id.
    """
    if not await store.upsert(session, request, lineage=lineage):
        raise taken(request.worker_id)


async def beat(session: AsyncSession, worker_id: str, report: InferenceHeartbeat, *, lineage: str) -> None:
    """The worker lives; remember what it does.

    Raises:
        NotFound: it is not registered, or another start of it is.
        Forbidden: another key registered it.
    """
    worker = await store.lock(session, worker_id)
    if worker is None or worker.incarnation != report.incarnation:
        raise _unknown(worker_id)
    check_owner(worker, lineage)
    worker.doing, worker.requests = report.doing, report.requests
    worker.bases = list(report.bases)
    worker.names = None if report.names is None else list(report.names)
    worker.last_seen_at = await now(session)


async def require(session: AsyncSession, worker_id: str, *, lineage: str) -> InferenceWorker:
    """The registered worker.

    Raises:
        NotFound: it is not registered.
        Forbidden: another key registered it.
    """
    worker = await session.get(InferenceWorker, worker_id)
    if worker is None:
        raise _unknown(worker_id)
    check_owner(worker, lineage)
    return worker


def _unknown(worker_id: str) -> NotFound:
    message = f"Inference worker {worker_id!r:.120} is not registered as this incarnation."
    return NotFound(message, code=ErrorCode.WORKER_NOT_REGISTERED, param="worker_id", hint="Register again.")
