"""What a schedule's row says of its next due time."""

from datetime import datetime

from tunesmith.service.database.tables import Schedule
from tunesmith.service.schedules.recurrence import Recurrence, jitter_of
from tunesmith.service.schedules.schemas import ScheduleSettings


def start_over(schedule: Schedule, settings: ScheduleSettings, *, at: datetime) -> None:
    """The next due time is the first one from now on."""
    set_next(schedule, settings, due_at=recurrence_of(settings).after(at))


def set_next(schedule: Schedule, settings: ScheduleSettings, *, due_at: datetime | None) -> None:
    """Nothing is recorded before this due time."""
    jitter = jitter_of(schedule.id, most_seconds=settings.jitter_seconds)
    schedule.next_due_at = due_at
    schedule.next_fires_at = due_at + jitter if due_at else None


def recurrence_of(settings: ScheduleSettings) -> Recurrence:
    """When it is due."""
    return Recurrence.parse(settings.cron, settings.timezone)
