"""Queries about the jobs of due times."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from tunesmith.service.database.tables import Attempt, Firing, Job, Model, Schedule
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.values.json_objects import Json


@dataclass(frozen=True)
class FiredAttempt:
    """A firing with one attempt of its job, of which there may be none yet."""

    due_at: datetime
    firing_id: str
    firing_state: str
    job_id: str | None
    job_state: str | None
    created_at: datetime | None
    finished_at: datetime | None
    result: Json | None
    worker_id: str | None
    started_at: datetime | None
    base_digest: str | None


async def find_attempts(session: AsyncSession, *, project: str, due_times: int) -> Sequence[FiredAttempt]:
    """Of the project's newest due times, the newest first, and in each the order in which workers began."""
    newest = (
        select(Firing.due_at)
        .join(Schedule, Schedule.id == Firing.schedule_id)
        .where(Schedule.project == project)
        .distinct()
        .order_by(Firing.due_at.desc())
        .limit(due_times)
        .subquery()
    )
    own, base = aliased(Model), aliased(Model)
    query = (
        select(
            Firing.due_at,
            Firing.id.label("firing_id"),
            Firing.state.label("firing_state"),
            Job.id.label("job_id"),
            Job.state.label("job_state"),
            Job.created_at,
            Job.finished_at,
            Job.result,
            Attempt.worker_id,
            Attempt.started_at,
            func.coalesce(base.digest, own.digest).label("base_digest"),
        )
        .join(Schedule, Schedule.id == Firing.schedule_id)
        .join(newest, newest.c.due_at == Firing.due_at)
        .outerjoin(Job, Job.id == Firing.job_id)
        .outerjoin(Attempt, Attempt.job_id == Job.id)
        .outerjoin(own, own.name == Job.spec["model"].astext)
        .outerjoin(base, and_(own.kind == ArtifactKind.ADAPTER, base.name == own.base_model))
        .where(Schedule.project == project)
        .order_by(Firing.due_at.desc(), Attempt.started_at, Firing.id)
    )
    return [FiredAttempt(**row) for row in (await session.execute(query)).mappings()]
