"""Refusing what would be more than a project may have."""

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.projects import store
from tunesmith.service.settings import ProjectLimits
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Forbidden, LimitReached
from tunesmith.tuning.state import JobState


async def check_queued(session: AsyncSession, project: str, *, limits: ProjectLimits) -> None:
    """Call it when the new queued job has been flushed, last in its transaction.

    Raises:
        LimitReached: it is one too many.
    """
    if limits.queued_jobs is None:
        return
    await store.lock(session, project, what="queued")
    queued = await store.count_jobs(session, project, state=JobState.QUEUED)
    if queued > limits.queued_jobs:
        message = f"The project {project!r} has {queued - 1} jobs in line, and its limit is {limits.queued_jobs}."
        raise LimitReached(
            message,
            code=ErrorCode.TOO_MANY_QUEUED_JOBS,
            hint="Wait until some have started, cancel some, or let the operator raise TUNESMITH_PROJECT_LIMITS.",
        )


async def may_run_one_more(session: AsyncSession, project: str, *, limits: ProjectLimits) -> bool:
    """Whether the project may run one more job. Until the transaction ends nobody else starts one of it."""
    if limits.running_jobs is None:
        return True
    await store.lock(session, project, what="running")
    return not limits.is_full(await store.count_jobs(session, project, state=JobState.RUNNING))


async def check_stored(session: AsyncSession, project: str, *, limits: ProjectLimits) -> None:
    """Call it when the new file has been flushed, or before a job is made, whose result nobody refuses later.

    Raises:
        Forbidden: the project has more bytes than it may.
    """
    if limits.stored_bytes is None:
        return
    await store.lock(session, project, what="stored")
    stored = await store.stored_bytes(session, project)
    if stored > limits.stored_bytes:
        message = f"The project {project!r} would have {stored:,} bytes stored; its limit is {limits.stored_bytes:,}."
        raise Forbidden(
            message,
            code=ErrorCode.TOO_MANY_STORED_BYTES,
            hint="Delete files of the project, or let the operator raise TUNESMITH_PROJECT_LIMITS.",
        )
