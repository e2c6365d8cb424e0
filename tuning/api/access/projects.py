"""Projects as administrators see them."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Listing


class ProjectLimitsObject(Answer):
    """The most that a project may have; null is no limit."""

    running_jobs: int | None
    """Jobs that run at a time; more stay in line."""
    queued_jobs: int | None
    """Jobs in line; one more is refused with 429."""
    stored_bytes: int | None
    """Bytes of files, checkpoints and results; more files and jobs are refused with 403."""
    gpu_hours_per_month: float | None
    """GPU hours of a calendar month in UTC; when they are used up, jobs stay in line until the next."""


class ProjectUsage(Answer):
    """What a project has now."""

    running_jobs: int
    """Jobs that run."""
    queued_jobs: int
    """Jobs in line."""
    stored_bytes: int
    """Bytes of its files, checkpoints and results."""
    gpu_hours_this_month: float
    """GPU hours of attempts since the month began in UTC."""


class ProjectObject(Answer):
    """A project with its limits and what it has of them."""

    id: str
    """Its name."""
    object: Literal["tunesmith.project"] = "tunesmith.project"
    """Always `tunesmith.project`."""
    limits: ProjectLimitsObject
    """What holds: the project's own limits, and for the rest those of the service's settings."""
    usage: ProjectUsage
    """What it has now."""


class ProjectList(Listing[ProjectObject]):
    """All projects by name."""
