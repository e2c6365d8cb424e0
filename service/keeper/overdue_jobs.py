"""Ending jobs at their deadline: waiting ones at once, running ones by their worker, which is asked to stop."""

from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.attempts.outcomes import fail
from tunesmith.service.database.tables import Job
from tunesmith.service.database.transactions import now
from tunesmith.service.jobs import deadlines
from tunesmith.service.jobs import store as jobs
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.tuning.state import JobState

log = structlog.get_logger(__name__)

_BATCH = 200


async def end_overdue_jobs(context: KeeperContext) -> int:
    """Each in a transaction of its own; returns how many were ended or told to."""
    async with context.database.transaction() as session:
        overdue = await jobs.find_overdue(session, limit=_BATCH)
    ended = 0
    for job_id in overdue:
        async with context.database.transaction() as session:
            ended += await _end(session, await jobs.lock(session, job_id), at=await now(session))
    return ended


async def _end(session: AsyncSession, job: Job, *, at: datetime) -> bool:
    if job.deadline_at is None or job.deadline_at > at or job.cancel_requested_at is not None:
        return False  # a user was faster
    if job.state == JobState.QUEUED:
        fail(session, job, deadlines.missed(job), at=at)
    elif job.state == JobState.RUNNING:
        events.append(session, job, "The deadline has passed; the worker is stopping", level="warn")
        job.cancel_requested_at = at
    else:
        return False
    log.warning("job.overdue", job_id=job.id, state=job.state)
    return True
