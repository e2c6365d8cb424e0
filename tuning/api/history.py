"""What happened to a job: events, attempts, checkpoints."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Listing, Named, Page
from tunesmith.tuning.errors import Failure
from tunesmith.tuning.messages import CanaryReport, FileRef
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.values.json_objects import Json


class EventObject(Named):
    """One line of a job's history."""

    id: str
    """Its identifier, `ftevent-...`, which ends in its number within the job."""
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    """Always `fine_tuning.job.event`."""
    created_at: int
    """When it happened, in Unix seconds."""
    level: Literal["info", "warn", "error"]
    """How much it matters."""
    message: str
    """What happened, for people."""
    type: Literal["message", "metrics"]
    """`metrics` when `data` is a metric point."""
    data: Json | None
    """The same for programs; null where there is nothing to add."""


class EventPage(Page[EventObject]):
    """One page of a job's history."""


class AttemptObject(Answer):
    """One try of a job by one worker."""

    id: str
    """Its identifier."""
    object: Literal["tunesmith.attempt"] = "tunesmith.attempt"
    """Always `tunesmith.attempt`."""
    epoch: int
    """Its number within the job, from 1."""
    worker_id: str
    """The worker that took it."""
    worker_class: str
    """The class of that worker's hardware."""
    phase: str
    """How far it is or was, such as `preparing`, `training` or `uploading`."""
    step: int | None
    """The last optimizer step that was heard of."""
    plan: Annotated[Json, Recorded(Plan)]
    """How it trains."""
    started_at: int
    """When it was claimed, in Unix seconds."""
    ended_at: int | None
    """When it ended, in Unix seconds; null before."""
    outcome: str | None
    """`succeeded`, `failed`, `cancelled`, `paused`, `preempted` or `lost`; null before it has ended."""
    failure: Annotated[Json, Recorded(Failure)] | None
    """Why it ended badly; null unless it did."""
    canary: Annotated[Json, Recorded(CanaryReport)] | None
    """What one micro-step before training measured; null where none was made."""
    result: Json | None
    """What the trainer reported at its end, free to grow."""


class AttemptList(Listing[AttemptObject]):
    """Every try of a job, oldest first."""


class TrackedRunObject(Answer):
    """Where a tracker shows a run of a job."""

    object: Literal["tunesmith.tracked_run"] = "tunesmith.tracked_run"
    """Always `tunesmith.tracked_run`."""
    tracker: str
    """`wandb` or `mlflow`."""
    url: str
    """The address to open."""


class TrackedRunList(Listing[TrackedRunObject]):
    """Where trackers show the runs of a job, oldest first."""


class TunesmithCheckpoint(Answer):
    """What Tunesmith adds to a checkpoint."""

    attempt_id: str
    """The attempt that made it."""
    manifest_sha256: str
    """SHA-256 of its manifest, which names its files with theirs."""
    files: list[Annotated[Json, Recorded(FileRef)]] = []
    """Its weights, to be downloaded: an adapter with its settings, or all of a model's; empty once they are let go."""


class CheckpointObject(Named):
    """The state of a run on disk, from which it can go on."""

    id: str
    """Its identifier."""
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    """Always `fine_tuning.job.checkpoint`."""
    created_at: int
    """When it was complete in the store, in Unix seconds."""
    fine_tuning_job_id: str
    """The job that it belongs to."""
    fine_tuned_model_checkpoint: str
    """The name of the model at this step."""
    step_number: int
    """The optimizer step that it was made after."""
    metrics: dict[str, float | int | None]
    """The newest metrics at that step: `step` and, where they were measured, `train_loss`, `valid_loss` and others."""
    tunesmith: TunesmithCheckpoint
    """Everything that is ours."""


class CheckpointPage(Page[CheckpointObject]):
    """One page of a job's checkpoints, the highest step first."""
