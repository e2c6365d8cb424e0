"""Queries about workers."""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, WorkerNode


async def find_live(session: AsyncSession, *, silence: timedelta) -> list[WorkerNode]:
    """Workers heard of within `silence`."""
    query = select(WorkerNode).where(WorkerNode.last_seen_at > func.now() - silence).order_by(WorkerNode.id)
    return list((await session.execute(query)).scalars())


async def find_known(session: AsyncSession, *, within: timedelta) -> list[WorkerNode]:
    """One worker of each class that was heard of within a longer time: machines that may come back."""
    query = (
        select(WorkerNode)
        .where(WorkerNode.last_seen_at > func.now() - within)
        .order_by(WorkerNode.worker_class, WorkerNode.last_seen_at.desc())
        .ext(distinct_on(WorkerNode.worker_class))
    )
    return list((await session.execute(query)).scalars())


async def lock(session: AsyncSession, worker_id: str) -> WorkerNode | None:
    """The worker's row, locked."""
    query = select(WorkerNode).where(WorkerNode.id == worker_id).with_for_update(key_share=True)
    return (await session.execute(query)).scalar_one_or_none()


async def open_attempts(session: AsyncSession, worker_ids: list[str]) -> list[Attempt]:
    """Attempts that these workers hold."""
    query = select(Attempt).where(Attempt.worker_id.in_(worker_ids), Attempt.ended_at.is_(None))
    return list((await session.execute(query)).scalars())
