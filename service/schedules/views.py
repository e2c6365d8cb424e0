"""Schedules and firings as the API shows them."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from tunesmith.service.database.tables import Firing, Schedule
from tunesmith.service.schedules.next_due import recurrence_of
from tunesmith.service.schedules.recurrence import jitter_of
from tunesmith.service.schedules.schemas import ScheduleSettings
from tunesmith.tuning.api.nightly.schedules import DueTime, FiringObject, ScheduleObject
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.words import FiringState

_SHOWN = 5


def schedule_object(schedule: Schedule, *, last: Firing | None) -> ScheduleObject:
    """A schedule with its next due times and what became of its last one."""
    return ScheduleObject(
        id=schedule.id,
        name=schedule.name,
        paused=schedule.paused_at is not None,
        settings=schedule.settings,
        next_due=[] if schedule.paused_at else list(islice(_due_times(schedule), _SHOWN)),
        last_firing=firing_object(last) if last else None,
        created_at=_seconds(schedule.created_at),
        updated_at=_seconds(schedule.updated_at),
    )


def firing_object(firing: Firing) -> FiringObject:
    """A firing."""
    return FiringObject(
        id=firing.id,
        schedule_id=firing.schedule_id,
        due_at=_seconds(firing.due_at),
        trigger=firing.trigger,
        state=FiringState(firing.state),
        code=firing.code,
        reason=firing.reason,
        tries=firing.tries,
        training_file=firing.training_file,
        source=firing.source,
        base_model=firing.base_model,
        champion=firing.champion,
        job_id=firing.job_id,
        model=firing.model,
        evaluations=firing.evaluations,
        verdict=firing.verdict,
        created_at=_seconds(firing.created_at),
        decided_at=_seconds_or_none(firing.decided_at),
        ended_at=_seconds_or_none(firing.ended_at),
    )


def _due_times(schedule: Schedule) -> Iterator[DueTime]:
    settings = ScheduleSettings.model_validate(schedule.settings)
    try:
        recurrence = recurrence_of(settings)
    except InvalidRequest:  # this machine no longer knows the zone
        return
    jitter = jitter_of(schedule.id, most_seconds=settings.jitter_seconds)
    due_at = schedule.next_due_at
    while due_at is not None:
        local = due_at.astimezone(recurrence.zone).isoformat(timespec="minutes")
        yield DueTime(due_at=_seconds(due_at), fires_at=_seconds(due_at + jitter), local_time=local)
        due_at = recurrence.after(due_at)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _seconds_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _seconds(moment)
