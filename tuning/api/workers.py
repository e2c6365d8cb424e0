"""Workers as operators see them."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Listing
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.values.json_objects import Json


class WorkerObject(Answer):
    """A worker that was heard of lately."""

    id: str
    """The name that it chose or was given."""
    object: Literal["tunesmith.worker"] = "tunesmith.worker"
    """Always `tunesmith.worker`."""
    hostname: str
    """The machine that it runs on."""
    version: str
    """The version of its program."""
    worker_class: str
    """The class of its hardware, by which measurements are kept."""
    hardware: Annotated[Json, Recorded(HardwareProfile)]
    """What one attempt has there, as of the last heartbeat."""
    slots: int
    """How many attempts it can run at a time."""
    busy_slots: int
    """How many it runs."""
    draining: bool
    """Whether it takes no new job."""
    quarantined_until: int | None = None
    """Until when it gets no job while another of its class can, in Unix seconds; null if it was never kept out."""
    quarantine_reason: str | None = None
    """Why it is or was kept out."""
    job: str | None
    """The first of the jobs that it works on; null where there is none."""
    jobs: list[str]
    """All jobs that it works on."""
    registered_at: int
    """When it started, in Unix seconds."""
    last_seen_at: int
    """When it was heard of last, in Unix seconds."""


class WorkerList(Listing[WorkerObject]):
    """Live workers by name."""
