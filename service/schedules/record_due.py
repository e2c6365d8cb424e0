"""Writing down that due times have come: each once, whichever keeper comes first and however late."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Schedule
from tunesmith.service.database.transactions import is_away
from tunesmith.service.schedules import store
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.next_due import recurrence_of, set_next
from tunesmith.service.schedules.recurrence import jitter_of
from tunesmith.service.schedules.schemas import ScheduleSettings
from tunesmith.tuning.values.units import duration
from tunesmith.tuning.words import FiringState, Missed

log = structlog.get_logger(__name__)

_SCHEDULES_AT_ONCE = 500  # of one sweep
_PAUSE = timedelta(minutes=10)  # before a schedule that cannot be read is looked at again
_DUE_TIMES_AT_ONCE = 200  # of one schedule in one transaction; the next one goes on behind them


async def record_due(context: ScheduleContext) -> int:
    """Record every due time that has come as a firing, and return how many there were.

    The firing and the schedule's next due time are one transaction: a keeper that dies leaves both or neither.
    """
    recorded = 0
    for _ in range(_SCHEDULES_AT_ONCE):
        found = await _record_next(context)
        if found is None:
            break
        recorded += found
    return recorded


async def _record_next(context: ScheduleContext) -> int | None:
    """Of the most overdue schedule. One that cannot be read is put off, so that it does not hold up all behind it."""
    async with context.database.transaction() as session:
        at = await context.clock(session)
        schedule = await store.lock_due(session, at=at)
        if schedule is None:
            return None
        schedule_id = schedule.id
        try:
            async with session.begin_nested():
                return await record(session, schedule, at=at)
        except Exception as error:
            if is_away(error):
                raise
            log.exception("schedule.unreadable", schedule=schedule_id)
            schedule.next_fires_at = at + _PAUSE
            return 0


async def record(session: AsyncSession, schedule: Schedule, *, at: datetime) -> int:
    """The same for one schedule, which is locked: before it is changed, whatever has come under its old settings."""
    if schedule.paused_at is not None:
        return 0
    settings = ScheduleSettings.model_validate(schedule.settings)
    recorded = 0
    for due in _due_times(schedule, settings, at=at):
        state, reason = _fate(due, settings)
        recorded += await store.add_firing(session, schedule, due_at=due.due_at, at=at, state=state, reason=reason)
        set_next(schedule, settings, due_at=due.following)
    await session.flush()
    return recorded


@dataclass(frozen=True)
class _DueTime:
    due_at: datetime
    following: datetime | None
    late_by: timedelta  # counted from when the schedule's jitter let it fire
    is_latest: bool


def _due_times(schedule: Schedule, settings: ScheduleSettings, *, at: datetime) -> Iterator[_DueTime]:
    recurrence, jitter = recurrence_of(settings), jitter_of(schedule.id, most_seconds=settings.jitter_seconds)
    due_at = schedule.next_due_at
    for _ in range(_DUE_TIMES_AT_ONCE):
        if due_at is None or due_at + jitter > at:
            return
        following = recurrence.after(due_at)
        is_latest = following is None or following + jitter > at
        yield _DueTime(due_at, following, late_by=at - due_at - jitter, is_latest=is_latest)
        due_at = following


def _fate(due: _DueTime, settings: ScheduleSettings) -> tuple[FiringState, str | None]:
    """The latest due time fires unless it is too late for it; of earlier ones it is only known that they were."""
    if not due.is_latest:
        return FiringState.MISSED, "No keeper ran, and a later due time had come when one ran again."
    if due.late_by <= settings.grace:
        return FiringState.DUE, None
    late = f"{duration(due.late_by.total_seconds())} late"
    if settings.missed is Missed.RUN_LATEST:
        return FiringState.DUE, f"Fires {late}."
    return FiringState.MISSED, f"No keeper ran; {late} is more than the grace of {settings.grace_seconds} s."
