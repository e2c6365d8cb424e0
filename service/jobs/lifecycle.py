"""What a user can do to a job after it exists: cancel, pause, resume."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.tables import Job
from tunesmith.service.database.transactions import now
from tunesmith.service.jobs import store
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.projects.limits import check_queued
from tunesmith.service.settings import ProjectLimits
from tunesmith.tuning.state import JobState, JobTransition


async def cancel(session: AsyncSession, job_id: str, *, project: str) -> Job:
    """End a waiting job at once; ask the worker of a running one to stop. Asking twice is harmless.

    Raises:
        NotFound: no such job here.
        InvalidTransition: the job has finished.
    """
    job = await store.find(session, job_id, project=project, lock=True)
    at = await now(session)
    if job.state == JobState.RUNNING:
        if job.cancel_requested_at is None:
            events.append(session, job, "Cancellation requested; the worker is stopping")
            job.cancel_requested_at = at
    elif job.state == JobState.CANCELLED:
        pass
    else:
        events.append(session, job, f"{events.noun(job)} cancelled")
        apply_transition(job, JobTransition.CANCEL, at=at)
    await session.flush()
    return job


async def pause(session: AsyncSession, job_id: str, *, project: str) -> Job:
    """Hold a waiting job; ask the worker of a running one to save a checkpoint and stop.

    Raises:
        NotFound: no such job here.
        InvalidTransition: the job is neither waiting nor running.
    """
    job = await store.find(session, job_id, project=project, lock=True)
    at = await now(session)
    if job.state == JobState.RUNNING:
        if job.pause_requested_at is None:
            events.append(session, job, "Pause requested; the worker is saving a checkpoint")
            job.pause_requested_at = at
    else:
        events.append(session, job, f"{events.noun(job)} paused")
        apply_transition(job, JobTransition.PAUSE, at=at)
        if job.not_before > at:
            job.waiting_reason = None  # it no longer waits for its next try
    await session.flush()
    return job


async def resume(session: AsyncSession, job_id: str, *, project: str, limits: ProjectLimits) -> Job:
    """Put a paused job back into the line; take back a pause that the worker has not yet carried out.

    Raises:
        NotFound: no such job here.
        InvalidTransition: the job is not paused.
        LimitReached: the project has as many jobs in line as it may.
    """
    job = await store.find(session, job_id, project=project, lock=True)
    if job.state == JobState.RUNNING and job.pause_requested_at is not None:
        events.append(session, job, "Pause taken back")
    else:
        events.append(session, job, f"{events.noun(job)} resumed; it is queued again")
        at = await now(session)
        apply_transition(job, JobTransition.RESUME, at=at)
        job.not_before = at
    job.pause_requested_at = None
    await session.flush()
    if job.state == JobState.QUEUED:
        await check_queued(session, project, limits=limits)
    return job
