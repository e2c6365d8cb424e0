"""A worker that loses attempt after attempt gets no more for a while: its host, not the jobs, is the likely reason."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import WorkerNode
from tunesmith.service.database.transactions import now
from tunesmith.service.workers import store
from tunesmith.tuning.errors import NotFound

log = structlog.get_logger(__name__)

_WINDOW = timedelta(hours=1)
_LOSSES = 3


async def note_loss(session: AsyncSession, worker_id: str) -> None:
    """The worker has just lost an attempt, which is recorded; with the third of an hour it is in quarantine for one."""
    worker = await store.lock(session, worker_id)
    if worker is None:
        return
    at = await now(session)
    since = max(at - _WINDOW, worker.trusted_since or at - _WINDOW)
    lost = await store.count_lost(session, worker_id, since=since)
    if lost < _LOSSES:
        return
    worker.quarantined_until = at + _WINDOW
    worker.quarantine_reason = f"It lost {lost} attempts within an hour: it fell silent or started again during them."
    log.warning("worker.quarantined", worker_id=worker_id, lost=lost)


async def is_passed_over(session: AsyncSession, worker: WorkerNode, *, silence: timedelta) -> bool:
    """Whether the worker gets no job now. The only one of its class does: on a bad host jobs end late, else never.

    `silence` is how long another may have been silent and still count as there.
    """
    at = await now(session)
    if not _in_quarantine(worker, at):
        return False
    return _has_others(worker, await store.find_live(session, silence=silence), at)


async def release(session: AsyncSession, worker_id: str) -> None:
    """An administrator trusts the worker again: what it lost so far no longer counts.

    Raises:
        NotFound: there is no such worker.
    """
    worker = await store.lock(session, worker_id)
    if worker is None:
        raise NotFound(f"No worker {worker_id!r:.120}.", param="worker_id")
    worker.quarantined_until = worker.quarantine_reason = None
    worker.trusted_since = await now(session)


def _in_quarantine(worker: WorkerNode, at: datetime) -> bool:
    return worker.quarantined_until is not None and worker.quarantined_until > at


def _has_others(worker: WorkerNode, live: Iterable[WorkerNode], at: datetime) -> bool:
    others = [other for other in live if other.worker_class == worker.worker_class and other.id != worker.id]
    return any(not other.draining and not _in_quarantine(other, at) for other in others)
