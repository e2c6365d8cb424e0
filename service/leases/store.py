"""Queries about beats of the API, and about leases as far as they tell who is silent."""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import ApiBeat, Attempt

_KEPT = timedelta(days=1)


async def record_beat(session: AsyncSession, process: str, *, at: datetime, steady_seconds: float) -> None:
    """A process of the API serves."""
    facts = {"beat_at": at, "steady_seconds": steady_seconds}
    row = insert(ApiBeat).values(process=process, **facts)
    await session.execute(row.on_conflict_do_update(index_elements=[ApiBeat.process], set_=facts))


async def last_steady_beat(session: AsyncSession, *, at_least_seconds: float) -> datetime | None:
    """The newest beat of a process that had been steady for so long by then; None where there is none.

    A beat that lies ahead was made before the clock was set back, and says nothing about now.
    """
    steady = ApiBeat.steady_seconds >= at_least_seconds
    query = select(func.max(ApiBeat.beat_at)).where(steady, ApiBeat.beat_at <= func.now())
    return (await session.execute(query)).scalar_one()


async def newest_leases(session: AsyncSession) -> list[datetime]:
    """Of each worker that holds an attempt, when the last of its leases runs out."""
    query = select(func.max(Attempt.lease_expires_at)).where(Attempt.ended_at.is_(None)).group_by(Attempt.worker_id)
    return list((await session.execute(query)).scalars())


async def count_overdue(session: AsyncSession, *, before: datetime) -> int:
    """Open attempts whose lease ended before a moment."""
    query = select(func.count()).where(Attempt.ended_at.is_(None), Attempt.lease_expires_at < before)
    return (await session.execute(query)).scalar_one()


async def prune(session: AsyncSession) -> None:
    """Forget processes that have long ended."""
    old = delete(ApiBeat).where(ApiBeat.beat_at < func.now() - _KEPT)
    await session.execute(old.execution_options(synchronize_session=False))
