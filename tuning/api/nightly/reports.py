"""What due times cost: waiting, starting and training of all the jobs that were made at one."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Listing


class ScheduleReportObject(Answer):
    """One due time of a project's schedules: what became of its firings, and where the time of their jobs went.

    Times are of jobs that have ended and trained. Those of an attempt that another one went on from are left out.
    """

    object: Literal["tunesmith.schedule_report"] = "tunesmith.schedule_report"
    """Always `tunesmith.schedule_report`."""
    due_at: int
    """The due time, in Unix seconds."""
    firings: dict[str, int]
    """How many firings are in which state."""
    jobs: int
    """How many jobs were made."""
    trained: int
    """How many of them have succeeded: the times are of these."""
    wall_seconds: float | None
    """From the creation of the first of them to the end of the last."""
    longest_wait_seconds: float | None
    """The longest wait of one, from its creation to its first attempt."""
    startup_seconds: float | None
    """From claims to first steps, together."""
    training_seconds: float | None
    """In training steps, together."""
    wall_over_training: float | None
    """`wall_seconds` by `training_seconds`: 1 is a single host that did nothing but train."""
    base_changes: int
    """How often a worker went from one base to another between two jobs of this due time."""


class ScheduleReportList(Listing[ScheduleReportObject]):
    """Due times, newest first."""
