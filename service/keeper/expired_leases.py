"""Ending the attempts of workers that have gone silent, so that their jobs are tried again."""

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.attempts import store as attempts
from tunesmith.service.attempts.outcomes import Policy, lose
from tunesmith.service.database.tables import Attempt
from tunesmith.service.database.transactions import now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.outbox import store as outbox
from tunesmith.service.settings import Settings

log = structlog.get_logger(__name__)

_BATCH = 200


async def end_expired_leases(context: KeeperContext) -> int:
    """End attempts whose lease has run out, each in a transaction of its own, and return how many."""
    async with context.database.transaction() as session:
        expired = await attempts.find_expired(session, before=await now(session), limit=_BATCH)
    ended = 0
    for attempt in expired:
        async with context.database.transaction() as session:
            ended += await _end_if_expired(session, attempt, settings=context.settings)
    return ended


async def _end_if_expired(session: AsyncSession, expired: Attempt, *, settings: Settings) -> int:
    job = await jobs.lock(session, expired.job_id)
    attempt = await session.get_one(Attempt, expired.id)
    at = await now(session)
    if attempt.ended_at is not None or attempt.lease_expires_at >= at:
        return 0  # it was renewed or finished while we waited for the lock
    reason = f"Worker {attempt.worker_id} has not been heard of for {settings.lease_seconds:.0f} s."
    lose(session, job, attempt, at=at, reason=reason, policy=Policy.of(settings))
    outbox.wake_later(session, [attempt.worker_class])
    log.warning("attempt.lost", job_id=job.id, attempt_id=attempt.id, worker_id=attempt.worker_id)
    return 1
