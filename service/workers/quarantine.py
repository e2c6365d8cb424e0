"""A worker whose host spoils attempt after attempt gets no more for a while: the jobs are not the likely reason."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import WorkerNode
from tunesmith.service.database.transactions import now
from tunesmith.service.workers import store
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Failure, NotFound
from tunesmith.tuning.values.units import plural

log = structlog.get_logger(__name__)

_WINDOW = timedelta(hours=1)
_MOST_SPOILT = 3
_HOSTS_FAULTS = (ErrorCode.WORKER_ERROR, ErrorCode.DISK_FULL, ErrorCode.DISK_UNUSABLE)  # no job brings these along


def is_hosts_fault(failure: Failure | None) -> bool:
    """Whether an attempt that failed so says something about its worker rather than about its job."""
    return failure is not None and failure.code in _HOSTS_FAULTS


async def note_spoilt(session: AsyncSession, worker_id: str) -> None:
    """An attempt was lost, or failed by its host's fault, and that is recorded: the third of an hour is one too many.

    Call it before any job is locked, for whoever claims locks the worker first.
    """
    worker = await store.lock(session, worker_id)
    if worker is None:
        return
    at = await now(session)
    since = max(at - _WINDOW, worker.trusted_since or at - _WINDOW)
    lost = await store.count_lost(session, worker_id, since=since)
    failed = await store.count_failed_by(session, worker_id, codes=_HOSTS_FAULTS, since=since)
    if lost + failed < _MOST_SPOILT:
        return
    worker.quarantined_until = at + _WINDOW
    worker.quarantine_reason = _reason(lost=lost, failed=failed)
    log.warning("worker.quarantined", worker_id=worker_id, lost=lost, failed=failed)


async def is_passed_over(session: AsyncSession, worker: WorkerNode, *, silence: timedelta) -> bool:
    """Whether the worker gets no job now. The only one of its class does: on a bad host jobs end late, else never.

    `silence` is how long another may have been silent and still count as there.
    """
    at = await now(session)
    if not _in_quarantine(worker, at):
        return False
    return _has_others(worker, await store.find_live(session, silence=silence), at)


async def release(session: AsyncSession, worker_id: str) -> None:
    """An administrator trusts the worker again: what it spoilt so far no longer counts.

    Raises:
        NotFound: there is no such worker.
    """
    worker = await store.lock(session, worker_id)
    if worker is None:
        raise NotFound(f"No worker {worker_id!r:.120}.", param="worker_id")
    worker.quarantined_until = worker.quarantine_reason = None
    worker.trusted_since = await now(session)


def _reason(*, lost: int, failed: int) -> str:
    silent = f"It lost {plural(lost, 'attempt')} within an hour: it fell silent or started again during them."
    broken = f"{plural(failed, 'attempt')} failed within an hour by its own fault or its disk's."
    return " ".join(part for part, number in ((silent, lost), (broken, failed)) if number)


def _in_quarantine(worker: WorkerNode, at: datetime) -> bool:
    return worker.quarantined_until is not None and worker.quarantined_until > at


def _has_others(worker: WorkerNode, live: Iterable[WorkerNode], at: datetime) -> bool:
    others = [other for other in live if other.worker_class == worker.worker_class and other.id != worker.id]
    return any(not other.draining and not _in_quarantine(other, at) for other in others)
