"""A worker has started: what an earlier start of it held is lost at once, not only when the leases run out."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.attempts.outcomes import Policy, lose
from tunesmith.service.database.tables import WorkerNode
from tunesmith.service.database.transactions import now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.workers import quarantine, registry
from tunesmith.service.workers import store as workers
from tunesmith.tuning.messages import RegisterWorker
from tunesmith.tuning.planner.checks import check_hardware


async def register(session: AsyncSession, request: RegisterWorker, *, lineage: str, policy: Policy) -> WorkerNode:
    """Record the start, and close the attempts of earlier ones.

    Raises:
        InvalidRequest: the hardware cannot be what it claims.
        Forbidden: another key, which is valid, registered this id.
    """
    check_hardware(request.hardware)
    worker = await registry.record_start(session, request, lineage=lineage)
    moment = await now(session)
    for attempt in await workers.open_attempts(session, [worker.id]):
        if attempt.incarnation != request.incarnation:
            job = await jobs.lock(session, attempt.job_id)
            await session.refresh(attempt)
            reason = f"Worker {worker.id} started again while it held this attempt."
            lose(session, job, attempt, at=moment, reason=reason, policy=policy)
            await session.flush()
            await quarantine.note_spoilt(session, worker.id)
    return worker
