"""Queries about what runs measured."""

from typing import Any

from sqlalchemy import Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Job
from tunesmith.tuning.state import Outcome
from tunesmith.tuning.words import JobKind


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
        .where(or_(succeeded, Attempt.canary.is_not(None)), Job.kind == JobKind.TRAINING)
        .order_by(Attempt.id.desc())
        .limit(limit)
    )
    if project is not None:
        query = query.where(Job.project == project)
    return list(await session.execute(query))
