"""Queries about what stands between a new job and its start, and about what runs measured."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Job, Model
from tunesmith.service.jobs.store import aged_priority, queue_order, running_of
from tunesmith.tuning.state import JobState, Outcome

_LEAST_REMAINING_SECONDS = 5.0  # of a run that is later than expected: it still has to hand over


async def find_ahead(
    session: AsyncSession, *, project: str, priority: int, limit: int
) -> tuple[list[tuple[Job, Model]], int]:
    """The first waiting jobs that would be served before a new one of the project, and how many there are in all."""
    aged, running = aged_priority(), running_of(Job.project)
    is_ahead = and_(
        Job.state == JobState.QUEUED,
        Job.not_before <= func.now(),
        or_(aged > priority, and_(aged == priority, running <= running_of(project))),
    )
    query = (
        select(Job, Model)
        .join(Model, Model.name == Job.spec["model"].astext)
        .where(is_ahead)
        .order_by(*queue_order())
        .limit(limit)
    )
    found = [(job, model) for job, model in await session.execute(query)]
    if len(found) < limit:
        return found, len(found)
    return found, (await session.execute(select(func.count()).select_from(Job).where(is_ahead))).scalar_one()


async def remaining_seconds(session: AsyncSession, worker_ids: list[str], *, at: datetime) -> dict[str, list[float]]:
    """By worker, in how many seconds each of its open attempts is expected to end."""
    query = (
        select(
            Attempt.worker_id, Attempt.started_at, Attempt.plan["time"]["seconds"].as_float(), Job.estimated_finish_at
        )
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.worker_id.in_(worker_ids), Attempt.ended_at.is_(None))
    )
    found: dict[str, list[float]] = {}
    for worker_id, started_at, planned_seconds, estimated_finish_at in await session.execute(query):
        if estimated_finish_at is not None and estimated_finish_at > started_at:
            remaining = (estimated_finish_at - at).total_seconds()
        else:  # it has not made a step yet
            remaining = planned_seconds - (at - started_at).total_seconds()
        found.setdefault(worker_id, []).append(max(remaining, _LEAST_REMAINING_SECONDS))
    return found


async def find_measured(session: AsyncSession, *, project: str | None, limit: int) -> list[Row[Any]]:
    """The newest attempts, of a project or of all, that have a result or a canary; `succeeded` tells which."""
    succeeded = and_(Attempt.outcome.is_not_distinct_from(Outcome.SUCCEEDED), Attempt.result.is_not(None))
    query = (
        select(
            Attempt.id,
            Attempt.job_id,
            Attempt.epoch,
            Attempt.worker_class,
            func.coalesce(Attempt.ended_at, Attempt.started_at).label("at"),
            Attempt.plan,
            Attempt.result,
            Attempt.canary,
            Job.spec["model"].astext.label("model"),
            succeeded.label("succeeded"),
        )
        .join(Job, Job.id == Attempt.job_id)
        .where(or_(succeeded, Attempt.canary.is_not(None)))
        .order_by(Attempt.id.desc())
        .limit(limit)
    )
    if project is not None:
        query = query.where(Job.project == project)
    return list(await session.execute(query))
