"""Jobs that are made again and again, and what became of each due time."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Listing, Named, Page
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.words import FiringState, Trigger


class FiringObject(Named):
    """One due time of a schedule, or one "run now", and what was decided about it."""

    id: str
    """Its identifier, `firing-...`."""
    object: Literal["tunesmith.firing"] = "tunesmith.firing"
    """Always `tunesmith.firing`."""
    schedule_id: str
    """The schedule."""
    due_at: int
    """The due time, in Unix seconds, without jitter."""
    trigger: Trigger
    """`cron`, or `manual` for "run now"."""
    state: FiringState
    """What has become of it."""
    code: str | None
    """The error's code; null where nothing failed."""
    reason: str | None
    """Why it is in this state."""
    tries: int
    """How often it was put off."""
    training_file: str | None
    """The file whose rows were taken."""
    source: Json | None
    """Where the data came from, with its SHA-256."""
    base_model: str | None
    """The model that the job started from."""
    champion: str | None
    """What the alias stood for when the job was made."""
    job_id: str | None
    """The job; null where none was made."""
    model: str | None
    """What the job made."""
    evaluations: Json | None
    """Ids of the evaluations of its gate by guard rail; the one that decides has the empty name."""
    verdict: Json | None
    """The verdict on it, as it was given."""
    created_at: int
    """When the due time was recorded, in Unix seconds."""
    decided_at: int | None
    """When it was decided."""
    ended_at: int | None
    """When its last state was reached."""


class DueTime(Answer):
    """When a schedule fires next."""

    due_at: int
    """The due time, in Unix seconds."""
    fires_at: int
    """The same with the schedule's jitter."""
    local_time: str
    """The due time on the clock of the schedule's zone, in ISO 8601."""


class ScheduleObject(Named):
    """A job that is made again and again."""

    id: str
    """Its identifier, `sched-...`."""
    object: Literal["tunesmith.schedule"] = "tunesmith.schedule"
    """Always `tunesmith.schedule`."""
    name: str
    """What the project calls it."""
    paused: bool
    """Whether its due times are left out."""
    settings: Json
    """What it was created with, or replaced by; what was not given has its default."""
    next_due: list[DueTime]
    """Its next due times; none while it is paused."""
    last_firing: FiringObject | None
    """The newest due time that has come."""
    created_at: int
    """When it was created, in Unix seconds."""
    updated_at: int
    """When it was changed last, in Unix seconds."""


class ScheduleList(Listing[ScheduleObject]):
    """The project's schedules, by name."""


class FiringPage(Page[FiringObject]):
    """One page of a schedule's history, newest first."""
