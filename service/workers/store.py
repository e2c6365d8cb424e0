"""Queries about workers."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Interval, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, WorkerNode
from tunesmith.service.keys.store import may_register
from tunesmith.tuning.messages import RegisterWorker
from tunesmith.tuning.state import Outcome

_LIVE = (
    select(WorkerNode)
    .where(WorkerNode.last_seen_at > func.now() - bindparam("silence", type_=Interval))
    .order_by(WorkerNode.id)
)
_SLOTS = (
    select(WorkerNode.worker_class, func.sum(WorkerNode.slots).label("slots"))
    .where(WorkerNode.last_seen_at > func.now() - bindparam("silence", type_=Interval), WorkerNode.draining.is_(False))
    .group_by(WorkerNode.worker_class)
)


async def find_live(session: AsyncSession, *, silence: timedelta) -> list[WorkerNode]:
    """Workers heard of within `silence`."""
    return list((await session.execute(_LIVE, {"silence": silence})).scalars())


async def count_slots(session: AsyncSession, *, silence: timedelta) -> dict[str, int]:
    """By class, the slots of live workers that take jobs."""
    return {row.worker_class: row.slots for row in await session.execute(_SLOTS, {"silence": silence})}


async def find_known(session: AsyncSession, *, within: timedelta) -> list[WorkerNode]:
    """One worker of each class that was heard of within a longer time: machines that may come back."""
    query = (
        select(WorkerNode)
        .where(WorkerNode.last_seen_at > func.now() - within)
        .order_by(WorkerNode.worker_class, WorkerNode.last_seen_at.desc())
        .ext(distinct_on(WorkerNode.worker_class))
    )
    return list((await session.execute(query)).scalars())


async def upsert(session: AsyncSession, request: RegisterWorker, *, lineage: str) -> bool:
    """Store the worker as it describes itself at its start; False when its id is that of another key's worker."""
    hardware = request.hardware.model_dump(mode="json")
    facts = {
        "incarnation": request.incarnation,
        "hostname": request.hostname,
        "version": request.version,
        "worker_class": request.hardware.worker_class,
        "hardware": hardware,
        "hardware_now": hardware,
        "slots": request.slots,
        "busy_slots": 0,
        "draining": False,
        "registered_at": func.now(),
        "last_seen_at": func.now(),
        "woken_at": None,
        "key_lineage": lineage,
    }
    row = insert(WorkerNode).values(id=request.worker_id, **facts)
    allowed = may_register(WorkerNode.key_lineage, lineage)
    stored = row.on_conflict_do_update(index_elements=[WorkerNode.id], set_=facts, where=allowed)
    return (await session.execute(stored.returning(WorkerNode.id))).scalar_one_or_none() is not None


async def lock_woken_before(session: AsyncSession, worker_classes: set[str], *, moment: datetime) -> list[WorkerNode]:
    """Workers of these classes that nobody has woken since, locked; those that another copy has locked are left out."""
    last_woken = func.coalesce(WorkerNode.woken_at, text("'-infinity'"))
    query = (
        select(WorkerNode)
        .where(WorkerNode.worker_class.in_(worker_classes), last_woken < moment)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return list((await session.execute(query)).scalars())


async def lock(session: AsyncSession, worker_id: str) -> WorkerNode | None:
    """The worker's row, locked."""
    query = select(WorkerNode).where(WorkerNode.id == worker_id).with_for_update(key_share=True)
    return (await session.execute(query)).scalar_one_or_none()


async def count_lost(session: AsyncSession, worker_id: str, *, since: datetime) -> int:
    """Attempts of the worker that were lost after a moment."""
    lost = (Attempt.worker_id == worker_id, Attempt.outcome == Outcome.LOST, Attempt.ended_at > since)
    return (await session.execute(select(func.count()).where(*lost))).scalar_one()


async def count_failed_by(session: AsyncSession, worker_id: str, *, codes: Sequence[str], since: datetime) -> int:
    """Attempts of the worker that failed with one of these codes after a moment."""
    query = select(func.count()).where(
        Attempt.worker_id == worker_id,
        Attempt.outcome == Outcome.FAILED,
        Attempt.failure["code"].astext.in_(codes),
        Attempt.ended_at > since,
    )
    return (await session.execute(query)).scalar_one()


async def open_attempts(session: AsyncSession, worker_ids: list[str]) -> list[Attempt]:
    """Attempts that these workers hold."""
    query = select(Attempt).where(Attempt.worker_id.in_(worker_ids), Attempt.ended_at.is_(None))
    return list((await session.execute(query)).scalars())
