"""Ending the attempts of workers that have gone silent, so that their jobs are tried again."""

from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.attempts import store as attempts
from tunesmith.service.attempts.outcomes import Policy, lose
from tunesmith.service.database.tables import Attempt
from tunesmith.service.database.transactions import now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.leases import lease_time
from tunesmith.service.leases.lease_time import Hold
from tunesmith.service.outbox import store as outbox
from tunesmith.service.settings import Settings
from tunesmith.service.workers import quarantine

log = structlog.get_logger(__name__)

_BATCH = 200


async def end_expired_leases(context: KeeperContext) -> int:
    """End attempts whose lease has run out, each in a transaction of its own, and return how many."""
    async with context.database.transaction() as session:
        time = await lease_time.read(session, _terms(context.settings))
        if time.ends_before is None:
            return 0
        expired = await attempts.find_expired(session, before=time.ends_before, limit=_BATCH)
    ended = 0
    for attempt in expired:
        async with context.database.transaction() as session:
            was_ended = await _end_if_expired(session, attempt, before=time.ends_before, settings=context.settings)
        if was_ended:
            ended += 1
            async with context.database.transaction() as session:  # the worker's row is never locked after a job's
                await quarantine.note_spoilt(session, attempt.worker_id)
    return ended


class HoldNotice:
    """Logs once when leases that have run out begin to be held, and once when that is over."""

    def __init__(self) -> None:
        self._told: Hold | None = None

    async def look(self, context: KeeperContext) -> None:
        """Compare with the last look."""
        async with context.database.transaction() as session:
            time = await lease_time.read(session, _terms(context.settings))
        if time.hold is not self._told:
            if time.hold is not None:
                log.warning("leases.held", because=time.hold.value, overdue=time.overdue)
            else:
                log.info("leases.released")
        self._told = time.hold


async def _end_if_expired(session: AsyncSession, expired: Attempt, *, before: datetime, settings: Settings) -> bool:
    job = await jobs.lock(session, expired.job_id)
    attempt = await session.get_one(Attempt, expired.id)
    if attempt.ended_at is not None or attempt.lease_expires_at >= before:
        return False  # it was renewed or finished while we waited for the lock
    reason = f"Worker {attempt.worker_id} has not been heard of for {settings.lease_seconds:.0f} s."
    lose(session, job, attempt, at=await now(session), reason=reason, policy=Policy.of(settings))
    await outbox.wake_later(session, [attempt.worker_class])
    log.warning("attempt.lost", job_id=job.id, attempt_id=attempt.id, worker_id=attempt.worker_id)
    return True


def _terms(settings: Settings) -> lease_time.LeasePolicy:
    return lease_time.LeasePolicy.of_seconds(lease=settings.lease_seconds, heartbeat=settings.heartbeat_seconds)
