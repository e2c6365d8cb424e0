"""Queries about how many wake-ups there were."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tunesmith.service.database.access_tables import WakeCount


async def add(session: AsyncSession, wakes: Mapping[str, int]) -> None:
    """Count wake-ups by worker class. Classes come in one order, so that no two writers wait for each other."""
    for worker_class in sorted(wakes):
        row = insert(WakeCount).values(worker_class=worker_class, wakes=wakes[worker_class])
        more = {"wakes": WakeCount.wakes + row.excluded.wakes}
        await session.execute(row.on_conflict_do_update(index_elements=[WakeCount.worker_class], set_=more))


async def read(connection: AsyncConnection, worker_classes: Sequence[str]) -> dict[str, int]:
    """The counts of these classes; one that nobody was woken of is left out."""
    query = select(WakeCount.worker_class, WakeCount.wakes).where(WakeCount.worker_class.in_(worker_classes))
    return {row.worker_class: row.wakes for row in (await connection.execute(query)).all()}
