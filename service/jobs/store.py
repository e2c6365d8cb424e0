"""Queries about jobs and what hangs on them."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Event, Job
from tunesmith.service.queue import store as queue
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.state import JobState


async def find(session: AsyncSession, job_id: str, *, project: str, lock: bool = False) -> Job:
    """The job of this project, locked against every other change if asked.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    query = select(Job).where(Job.id == job_id, Job.project == project)
    if lock:
        query = query.with_for_update(key_share=True)
    job = (await session.execute(query)).scalar_one_or_none()
    if job is None:
        raise NotFound(f"Could not find fine tune: {job_id}", code=ErrorCode.FINE_TUNING_JOB_NOT_FOUND, param="id")
    return job


async def lock(session: AsyncSession, job_id: str) -> Job:
    """The job, locked; it exists because something of its own named it."""
    query = (
        select(Job).where(Job.id == job_id).with_for_update(key_share=True).execution_options(populate_existing=True)
    )
    return (await session.execute(query)).scalar_one()


async def find_many(
    session: AsyncSession,
    *,
    project: str,
    after: str | None,
    limit: int,
    labels: dict[str, str] | None,
    unlabelled: bool,
) -> list[Job]:
    """Up to `limit` jobs, newest first, older than `after`; `labels` must all match, `unlabelled` means none at all."""
    query = select(Job).where(Job.project == project).order_by(Job.id.desc()).limit(limit)
    if after is not None:
        await find(session, after, project=project)
        query = query.where(Job.id < after)
    if labels:
        query = query.where(Job.labels.contains(labels))
    if unlabelled:
        query = query.where(Job.labels.is_(None))
    return list((await session.execute(query)).scalars())


async def lock_waiting(session: AsyncSession, job_id: str) -> Job | None:
    """The job, locked, if it still waits and nobody else is taking it."""
    query = (
        select(Job)
        .where(Job.id == job_id, Job.state == JobState.QUEUED, Job.not_before <= func.now())
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def wait_for_copies(session: AsyncSession, *, api_key_id: str, request_sha256: str) -> None:
    """Copies of one request meet here, so that a retry waits for a first try that is still on its way."""
    name = f"{api_key_id} {request_sha256}"
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def find_copy(session: AsyncSession, *, api_key_id: str, request_sha256: str, within: timedelta) -> Job | None:
    """The newest job that the same request of the same key made a short time ago."""
    query = (
        select(Job)
        .where(
            Job.api_key_id == api_key_id,
            Job.request_sha256 == request_sha256,
            Job.created_at > func.now() - within,
        )
        .order_by(Job.id.desc())
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def queue_positions(session: AsyncSession, jobs: Iterable[Job]) -> dict[str, int]:
    """The place in line, from 1, of those jobs that wait."""
    wanted = [job.id for job in jobs if job.state == JobState.QUEUED]
    if not wanted:
        return {}
    line = queue.places()
    rows = await session.execute(select(line.c.id, line.c.place).where(line.c.id.in_(wanted)))
    return {row.id: row.place for row in rows}


async def find_events(
    session: AsyncSession, job: Job, *, after: str | None, order: Literal["asc", "desc"], limit: int
) -> list[Event]:
    """Up to `limit` events behind `after`.

    Raises:
        InvalidRequest: `after` is not an event of this job.
    """
    query = select(Event).where(Event.job_id == job.id).limit(limit)
    if after is not None:
        seq = _seq(after, job=job)
        query = query.where(Event.seq > seq if order == "asc" else Event.seq < seq)
    return list((await session.execute(query.order_by(Event.seq if order == "asc" else Event.seq.desc()))).scalars())


def _seq(event_id: str, *, job: Job) -> int:
    head, _, tail = event_id.rpartition("-")
    if (
        head == f"ftevent-{job.id.removeprefix('ftjob-')}"
        and tail.isascii()
        and tail.isdecimal()
        and 0 < int(tail[:18]) <= job.event_seq
    ):
        return int(tail)
    raise InvalidRequest(f"No event {event_id!r:.120} in this job.", code=ErrorCode.EVENT_NOT_FOUND, param="after")


async def find_attempts(session: AsyncSession, job: Job) -> list[Attempt]:
    """Every attempt, oldest first."""
    return list(
        (await session.execute(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.epoch))).scalars()
    )
