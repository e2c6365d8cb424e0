"""How right predictions were and are."""

from typing import Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Listing


class MeasuredPlan(Answer):
    """Predicted beside measured for one finished run. An error of 0.1 means 10 % more than predicted."""

    object: Literal["tunesmith.plan_accuracy"] = "tunesmith.plan_accuracy"
    """Always `tunesmith.plan_accuracy`."""
    id: str
    """The attempt."""
    job: str
    """Its job."""
    finished_at: int
    """When it ended, in Unix seconds."""
    worker_class: str
    """The class of the worker's hardware."""
    model: str
    """What the job started from."""
    method: str
    """How the weights were changed."""
    kernels: str
    """What it computed with: measurements are kept apart by that."""
    predicted_peak_bytes: int
    """The predicted peak, as far as a trainer can see it."""
    measured_peak_bytes: int | None
    """The measured peak of the same; null where it was not measured."""
    peak_error: float | None
    """Measured over predicted peak, less one."""
    predicted_tokens_per_second: float
    """The predicted speed of the training steps."""
    measured_tokens_per_second: float | None
    """Their measured speed; null where it was not measured."""
    speed_error: float | None
    """Measured over predicted speed, less one."""
    time_error: float | None
    """Measured over predicted time for the same tokens, less one."""
    predicted_seconds: float
    """The predicted time of the run."""
    predicted_seconds_low: float
    """The lower end of the range that the time was expected in."""
    predicted_seconds_high: float
    """The upper end of that range."""
    measured_seconds: float | None
    """The measured time of training and evaluations; null where it was not measured."""
    others_share: float | None
    """The share of the machine that others used meanwhile, from 0 to 1; null where nobody looked."""


class CurrentError(Answer):
    """How right predictions of one kind are now: medians over its newest runs."""

    worker_class: str
    """The class of the workers' hardware."""
    model: str
    """What the jobs started from."""
    method: str
    """How the weights were changed."""
    kernels: str
    """What they computed with."""
    runs: int
    """Finished runs of the kind among those looked at."""
    canaries: int
    """Canaries of the kind among those looked at; they count where no run has finished."""
    memory_error: float | None
    """Measured over predicted peak, less one."""
    time_error: float | None
    """Measured over predicted time for the same tokens, less one."""
    newest_at: int
    """When the newest of them was, in Unix seconds."""


class AccuracyList(Listing[MeasuredPlan]):
    """A project's finished runs, newest first, and what they come to by kind."""

    kinds: list[CurrentError]
    """One for each class of worker, model, method and set of kernels."""
