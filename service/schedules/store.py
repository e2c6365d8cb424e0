"""Queries about schedules and their firings."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Row, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Firing, Job, Schedule
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.state import JobState
from tunesmith.tuning.words import UNDECIDED, FiringState, Trigger

_BARREN = (JobState.FAILED.value, JobState.CANCELLED.value)


async def find(session: AsyncSession, name_or_id: str, *, project: str, lock: bool = False) -> Schedule:
    """The schedule of that id or name, locked against every other change if asked.

    Raises:
        NotFound: the project has none.
    """
    named = or_(Schedule.id == name_or_id, Schedule.name == name_or_id)
    query = select(Schedule).where(Schedule.project == project, named, Schedule.deleted_at.is_(None))
    if lock:
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    id_first = (Schedule.id == name_or_id).desc()
    schedule = (await session.execute(query.order_by(id_first))).scalars().first()
    if schedule is None:
        message = f"There is no schedule {name_or_id!r:.80}."
        raise NotFound(message, code=ErrorCode.SCHEDULE_NOT_FOUND, param="schedule")
    return schedule


async def find_many(session: AsyncSession, *, project: str) -> Sequence[Schedule]:
    """Every schedule of the project, by name."""
    query = select(Schedule).where(Schedule.project == project, Schedule.deleted_at.is_(None)).order_by(Schedule.name)
    return (await session.execute(query)).scalars().all()


async def add(session: AsyncSession, schedule: Schedule) -> bool:
    """Store a new schedule unless the project has one of that name; whether it was stored."""
    values = {
        "id": schedule.id,
        "project": schedule.project,
        "name": schedule.name,
        "api_key_id": schedule.api_key_id,
        "settings": schedule.settings,
        "next_due_at": schedule.next_due_at,
        "next_fires_at": schedule.next_fires_at,
    }
    new = insert(Schedule).values(values).on_conflict_do_nothing().returning(Schedule.id)
    return (await session.execute(new)).scalar_one_or_none() is not None


async def lock(session: AsyncSession, schedule_id: str) -> Schedule:
    """The schedule, which exists, deleted or not; its decisions are made one after another."""
    query = select(Schedule).where(Schedule.id == schedule_id)
    locked = query.with_for_update(key_share=True).execution_options(populate_existing=True)
    return (await session.execute(locked)).scalar_one()


async def lock_due(session: AsyncSession, *, at: datetime) -> Schedule | None:
    """A schedule whose time has come and that no other keeper looks at, the most overdue first, then the oldest."""
    query = (
        select(Schedule)
        .where(Schedule.next_fires_at <= at, Schedule.paused_at.is_(None), Schedule.deleted_at.is_(None))
        .order_by(Schedule.next_fires_at, Schedule.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def add_firing(
    session: AsyncSession,
    schedule: Schedule,
    *,
    due_at: datetime,
    at: datetime,
    trigger: Trigger = "cron",
    state: FiringState = FiringState.DUE,
    reason: str | None = None,
    is_forced: bool = False,
    idempotency_key: str | None = None,
) -> bool:
    """Record a due time unless it has been recorded before; whether it was recorded."""
    is_over = state is not FiringState.DUE
    new = insert(Firing).values(
        id=new_id("firing"),
        schedule_id=schedule.id,
        due_at=due_at,
        trigger=trigger,
        state=state,
        reason=reason,
        is_forced=is_forced,
        idempotency_key=idempotency_key,
        not_before=at,
        created_at=at,
        decided_at=at if is_over else None,
        ended_at=at if is_over else None,
    )
    added = await session.execute(new.on_conflict_do_nothing().returning(Firing.id))
    return added.scalar_one_or_none() is not None


async def find_same(
    session: AsyncSession, schedule: Schedule, *, due_at: datetime, idempotency_key: str | None
) -> Firing:
    """The firing that stands in the way of another one: with the same key, else of the same moment."""
    same = Firing.due_at == due_at
    if idempotency_key is not None:
        same = or_(same, Firing.idempotency_key == idempotency_key)
    query = select(Firing).where(Firing.schedule_id == schedule.id, same)
    return (await session.execute(query.order_by(Firing.idempotency_key.is_(None)))).scalars().first() or _gone()


async def take_undecided(
    session: AsyncSession, *, at: datetime, hold: timedelta, limit: int, is_fetched: bool
) -> Sequence[str]:
    """Ids of firings to decide about, which nobody else looks at until `hold` is over, in the order they were recorded.

    `is_fetched`: those whose data is here; else those whose data must be fetched first.
    """
    has_address = Schedule.settings["data"]["url"].astext.is_not(None)
    lacks_data = and_(has_address, Firing.training_file.is_(None))
    undecided = Firing.state.in_(UNDECIDED)
    due = (
        select(Firing.id)
        .join(Schedule, Schedule.id == Firing.schedule_id)
        .where(undecided, Firing.not_before <= at, ~lacks_data if is_fetched else lacks_data)
        .order_by(Firing.due_at, Firing.id)
        .limit(limit)
        .with_for_update(of=Firing, skip_locked=True)
    )
    ids = (await session.execute(due)).scalars().all()
    taken = update(Firing).where(Firing.id.in_(ids)).values(not_before=at + hold)
    await session.execute(taken.execution_options(synchronize_session=False))
    return ids


async def get_firing(session: AsyncSession, firing_id: str) -> Firing:
    """The firing, which exists."""
    return await session.get_one(Firing, firing_id)


async def lock_firing(session: AsyncSession, firing_id: str) -> Firing:
    """The firing, which exists, locked. Whoever needs its schedule's lock as well takes that one first."""
    query = select(Firing).where(Firing.id == firing_id).with_for_update(key_share=True)
    return (await session.execute(query.execution_options(populate_existing=True))).scalar_one()


async def find_firing(session: AsyncSession, firing_id: str, *, schedule: Schedule) -> Firing:
    """A firing of this schedule.

    Raises:
        NotFound: it has none of that id.
    """
    firing = await session.get(Firing, firing_id)
    if firing is None or firing.schedule_id != schedule.id:
        message = f"{schedule.name} has no firing {firing_id!r:.80}."
        raise NotFound(message, code=ErrorCode.FIRING_NOT_FOUND, param="firing")
    return firing


async def find_firings(session: AsyncSession, schedule: Schedule, *, after: str | None, limit: int) -> Sequence[Firing]:
    """Up to `limit` firings behind `after`, newest first.

    Raises:
        NotFound: `after` is no firing of this schedule.
    """
    query = select(Firing).where(Firing.schedule_id == schedule.id)
    if after is not None:
        query = query.where(Firing.due_at < (await find_firing(session, after, schedule=schedule)).due_at)
    return (await session.execute(query.order_by(Firing.due_at.desc()).limit(limit))).scalars().all()


async def find_by_ids(session: AsyncSession, firing_ids: Sequence[str]) -> Sequence[Firing]:
    """Those of them that there are, of whichever schedules."""
    return (await session.execute(select(Firing).where(Firing.id.in_(firing_ids)))).scalars().all()


async def find_newest(session: AsyncSession, schedule_ids: Sequence[str]) -> dict[str, Firing]:
    """The newest firing of each schedule that has one."""
    query = (
        select(Firing)
        .where(Firing.schedule_id.in_(schedule_ids))
        .ext(distinct_on(Firing.schedule_id))
        .order_by(Firing.schedule_id, Firing.due_at.desc())
    )
    return {firing.schedule_id: firing for firing in (await session.execute(query)).scalars()}


async def find_open_jobs(session: AsyncSession, schedule: Schedule) -> Sequence[str]:
    """Ids of the schedule's jobs that have not ended, the oldest first."""
    query = (
        select(Job.id)
        .join(Firing, Firing.job_id == Job.id)
        .where(Firing.schedule_id == schedule.id, Job.finished_at.is_(None))
        .order_by(Job.id)
    )
    return (await session.execute(query)).scalars().all()


async def has_waiting(session: AsyncSession, schedule: Schedule, *, but: Firing) -> bool:
    """Whether another firing of the schedule waits for the end of a job."""
    waiting = and_(Firing.schedule_id == schedule.id, Firing.state == FiringState.WAITING, Firing.id != but.id)
    return (await session.execute(select(Firing.id).where(waiting).limit(1))).first() is not None


async def find_last_with_job(session: AsyncSession, schedule: Schedule) -> Firing | None:
    """The newest firing whose job has not failed and was not cancelled."""
    query = (
        select(Firing)
        .join(Job, Job.id == Firing.job_id)
        .where(Firing.schedule_id == schedule.id, Job.state.not_in(_BARREN))
        .order_by(Firing.due_at.desc())
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def find_ended(session: AsyncSession, *, limit: int) -> Sequence[Row[str, str]]:
    """`id` and `schedule_id` of firings whose job has ended and that nobody has settled yet."""
    query = (
        select(Firing.id, Firing.schedule_id)
        .join(Job, Job.id == Firing.job_id)
        .where(Firing.state == FiringState.SUBMITTED, Job.finished_at.is_not(None))
        .order_by(Firing.due_at, Firing.id)
        .limit(limit)
    )
    return (await session.execute(query)).all()


async def find_gated(session: AsyncSession, *, limit: int) -> Sequence[Row[str, str]]:
    """`id` and `schedule_id` of firings that wait for a verdict of their schedule's own gate."""
    query = (
        select(Firing.id, Firing.schedule_id)
        .join(Schedule, Schedule.id == Firing.schedule_id)
        .where(Firing.state == FiringState.AWAITING_VERDICT, Schedule.settings["gate"].astext.is_not(None))
        .order_by(Firing.due_at, Firing.id)
        .limit(limit)
    )
    return (await session.execute(query)).all()


async def is_overtaken(session: AsyncSession, firing: Firing) -> bool:
    """Whether the result of a later firing has already been promoted."""
    later = and_(Firing.schedule_id == firing.schedule_id, Firing.due_at > firing.due_at)
    query = select(Firing.id).where(later, Firing.state == FiringState.PROMOTED).limit(1)
    return (await session.execute(query)).first() is not None


async def cancel_undecided(session: AsyncSession, schedule: Schedule, *, at: datetime, reason: str) -> None:
    """Nothing is decided any more about what waits."""
    waiting = _undecided_of(schedule)
    ended = {"state": FiringState.CANCELLED, "reason": reason, "decided_at": at, "ended_at": at}
    await session.execute(update(Firing).where(waiting).values(ended).execution_options(synchronize_session=False))


async def end_awaiting(session: AsyncSession, schedule: Schedule, *, at: datetime, reason: str) -> None:
    """Results that wait for a verdict are not promoted."""
    awaiting = and_(Firing.schedule_id == schedule.id, Firing.state == FiringState.AWAITING_VERDICT)
    ended = {"state": FiringState.TRAINED, "reason": reason, "ended_at": at}
    await session.execute(update(Firing).where(awaiting).values(ended).execution_options(synchronize_session=False))


async def refresh_time(session: AsyncSession, schedule: Schedule) -> None:
    """The schedule has changed now."""
    schedule.updated_at = (await session.execute(select(func.now()))).scalar_one()


def _undecided_of(schedule: Schedule) -> ColumnElement[bool]:
    return and_(Firing.schedule_id == schedule.id, Firing.state.in_(UNDECIDED))


def _gone() -> Firing:
    raise AssertionError("whatever stands in the way of a firing is a row")
