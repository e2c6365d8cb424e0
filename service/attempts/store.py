"""Queries about attempts."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt
from tunesmith.tuning.errors import Category
from tunesmith.tuning.state import Outcome


async def find_expired(session: AsyncSession, *, before: datetime, limit: int) -> list[Attempt]:
    """Open attempts whose lease ended before a moment."""
    query = (
        select(Attempt)
        .where(Attempt.ended_at.is_(None), Attempt.lease_expires_at < before)
        .order_by(Attempt.lease_expires_at)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def count_kills(session: AsyncSession, job_id: str) -> int:
    """Attempts of the job in which the trainer was killed under a worker that lived to tell."""
    killed = Attempt.failure["category"].astext == Category.WORKER_LOST
    query = select(func.count()).where(Attempt.job_id == job_id, Attempt.outcome == Outcome.FAILED, killed)
    return (await session.execute(query)).scalar_one()


async def count_fruitless(session: AsyncSession, job_id: str) -> int:
    """Attempts of the job that were given back since one has first reached the furthest step of all."""
    furthest = select(func.max(Attempt.step)).where(Attempt.job_id == job_id).scalar_subquery()
    there = select(func.min(Attempt.epoch)).where(Attempt.job_id == job_id, Attempt.step == furthest).scalar_subquery()
    query = select(func.count()).where(
        Attempt.job_id == job_id, Attempt.outcome == Outcome.PREEMPTED, Attempt.epoch > func.coalesce(there, 0)
    )
    return (await session.execute(query)).scalar_one()


async def find_claimed(session: AsyncSession, worker_id: str, *, claim_id: str) -> Attempt | None:
    """The attempt that the worker was given for this claim, open or not."""
    query = select(Attempt).where(Attempt.worker_id == worker_id, Attempt.claim_id == claim_id)
    return (await session.execute(query)).scalar_one_or_none()
