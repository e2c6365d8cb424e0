"""What would happen to a job on each class of worker."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.plan import Alternative, Plan, Reason


class PlanEntry(Answer):
    """What one class of worker, or one imagined machine, would do."""

    worker_class: str
    """The class of the workers, or the name of the imagined machine."""
    workers: int
    """Live workers of the class; 0 for an imagined machine."""
    idle: int
    """Of those, workers with a free slot."""
    what_if: bool
    """Whether the machine is imagined."""
    fits: bool
    """Whether the job can run there."""
    expected_start_seconds: float | None
    """In how long it would start, with the jobs ahead of it; null where it never would."""
    reasons: list[Reason]
    """Why the plan is what it is, or what forbids each way."""
    alternatives: list[Alternative]
    """What was not chosen."""
    plan: Plan | None
    """The plan; null where nothing fits."""
    refusal: str | None
    """Why nothing fits, as one paragraph; null where something does."""
    predicted_peak_bytes: int | None
    """The plan's peak on one device, or that of the smallest way that does not fit; null where none was computed."""
    free_bytes: int
    """What may be used there."""
    seconds: float | None
    """Predicted time of the run; null where nothing fits."""
    seconds_low: float | None
    """The lower end of the range that the time is expected in."""
    seconds_high: float | None
    """The upper end of that range."""
    gpu_hours: float | None
    """The predicted time in hours on all devices that the plan uses."""
    cost: float | None
    """What that costs by the service's prices; null where no price is known."""


class PlanAnswer(Answer):
    """One entry for every class of live worker, then one for every imagined machine."""

    object: Literal["fine_tuning.plan"] = "fine_tuning.plan"
    """Always `fine_tuning.plan`."""
    dataset: DatasetFacts
    """The data that was planned for."""
    warnings: list[str] = []
    """What one should know of the data, and that refuses nothing."""
    data: list[PlanEntry]
    """The entries."""
    chosen: str | None
    """The live class that would start it first; null where none fits."""
