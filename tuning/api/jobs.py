"""Fine-tuning jobs."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Named, Page
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.json_objects import Json

Number = float | int


def _is_absent(value: object) -> bool:
    return value is None


class JobError(Answer):
    """Why a job failed, in the API's words."""

    code: str
    """A stable word for programs."""
    message: str
    """What happened, for people."""
    param: str | None
    """The field of the request that must change; null where none would help."""


class JobHyperparameters(Answer):
    """What was asked for; where that was `auto`, the number that the plan chose once there is one."""

    n_epochs: Literal["auto"] | int
    """Passes over the training rows."""
    batch_size: Literal["auto"] | int
    """Rows of one optimizer step."""
    learning_rate_multiplier: Literal["auto"] | Number
    """What the recipe's learning rate is scaled by."""
    early_stopping_patience: int | None = Field(default=None, exclude_if=_is_absent)
    """Evaluations without a better validation loss that end training; absent unless it was asked for."""


class DpoJobHyperparameters(JobHyperparameters):
    """The same with what preference training adds."""

    beta: Literal["auto"] | Number | None
    """How strongly the model is held to where it started."""


class SupervisedJobMethod(Answer):
    """Settings of supervised training."""

    hyperparameters: JobHyperparameters
    """Asked for or chosen."""


class DpoJobMethod(Answer):
    """Settings of preference training."""

    hyperparameters: DpoJobHyperparameters
    """Asked for or chosen."""


class JobMethod(Answer):
    """What is learned, with the settings under the key of that name. How weights change is `tunesmith.method`."""

    type: Literal["supervised", "dpo"]
    """What is learned."""
    supervised: SupervisedJobMethod | None = Field(default=None, exclude_if=_is_absent)
    """Settings of supervised training; absent otherwise."""
    dpo: DpoJobMethod | None = Field(default=None, exclude_if=_is_absent)
    """Settings of preference training; absent otherwise."""


class JobWandbRun(Answer):
    """Where a run's curves go in Weights & Biases."""

    project: str
    """The project there."""
    name: str | None
    """What the run is called; null for the job's id."""
    entity: str | None
    """The team or user there; null for that of the worker's key."""
    tags: list[str]
    """Words to find the run by."""


class JobIntegration(Answer):
    """Something else that is told how a run goes."""

    type: Literal["wandb"]
    """Weights & Biases."""
    wandb: JobWandbRun
    """Its settings."""


class JobProgress(Answer):
    """How far the job is."""

    step: int | None
    """The last optimizer step that was heard of."""
    total_steps: int | None
    """Steps of the whole run."""
    eta_seconds: float | None
    """How much longer it is expected to take."""


class JobMeasurements(Answer):
    """What the run measured, beside the part of the plan's predicted peak that it could see."""

    peak_memory_bytes: int | None
    """The peak on one device, on a GPU without its context, which a trainer cannot see."""
    predicted_peak_memory_bytes: int
    """What the plan predicted for the same."""
    tokens_per_second: float | None
    """Speed of the training steps alone."""
    training_seconds: float | None
    """Time of the training steps."""
    evaluation_seconds: float | None
    """Time of the evaluations."""
    mfu: float | None
    """Model FLOPs utilisation: the share of what the device can multiply, from 0 to 1."""
    checkpoint_stall_seconds: float | None
    """For how long checkpoints held training up."""


class JobFailureDetails(Answer):
    """Why a job failed, beyond the API's `error`."""

    category: str
    """`user_error`, `out_of_memory`, `transient`, `worker_lost`, `disk_full`, `stalled` or `internal`."""
    retryable: bool
    """Whether the same job may succeed when it is submitted again."""
    hint: str | None
    """What to do next."""
    log_tail: str | None
    """The last lines of the trainer's log."""
    signal: str | None = None
    """Name of the signal that ended the trainer, if one did."""
    rank: int | None = None
    """Of several processes, the number of the one that failed first."""


class TunesmithJob(Answer):
    """What Tunesmith adds to a job."""

    phase: str | None
    """Where a running attempt is, such as `preparing`, `training` or `uploading`; null where none runs."""
    waiting_reason: str | None
    """What a queued job waits for, up to a second old; it may change without a new `version`."""
    queue_position: int | None
    """The place in line, from 1, up to a second old; null unless queued."""
    method: str
    """How the weights are changed: `full`, `lora` or `qlora`; `auto` until a plan has chosen."""
    goal: str
    """What is preferred among plans that fit: `balanced`, `quality`, `speed` or `cost`."""
    plan: Annotated[Json, Recorded(Plan)] | None
    """The plan of the newest attempt with its reasons; null before the first."""
    measured: JobMeasurements | None
    """What the run measured; null before it has ended well."""
    attempts: int
    """How many attempts there have been, the running one among them."""
    attempts_failed: int = 0
    """How many of them failed; with `max_attempts` of these the job has failed for good."""
    max_attempts: int = 0
    """How many attempts may fail."""
    attempts_lost: int = 0
    """How many of them were lost with their worker, which have a budget of their own."""
    attempts_preempted: int = 0
    """How many of them a worker gave back when it had to stop, which count against nothing."""
    progress: JobProgress
    """How far it is."""
    cancel_requested: bool
    """Whether it is running and its worker has been asked to stop."""
    pause_requested: bool
    """Whether it is running and its worker has been asked to save a checkpoint and stop."""
    deadline: int | None = None
    """By when it must have ended, in Unix seconds; null where it has all the time it takes."""
    priority: int
    """Jobs with more go first."""
    reproduces: str | None
    """The job whose plan it repeats."""
    version: int
    """Counts the changes of the job."""
    dataset: Annotated[Json, Recorded(DatasetFacts)]
    """What was counted of its data."""
    result: Json | None
    """What the trainer reported at its end, free to grow."""
    failure: JobFailureDetails | None
    """More about `error`; null where there is none."""


class JobObject(Named):
    """A fine-tuning job."""

    id: str
    """Its identifier, `ftjob-...`."""
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    """Always `fine_tuning.job`."""
    created_at: int
    """When it was submitted, in Unix seconds."""
    finished_at: int | None
    """When it ended, in Unix seconds; null before."""
    estimated_finish: int | None
    """When it is expected to end, in Unix seconds; null unless it is running and has made a step."""
    status: JobState
    """Where it is."""
    model: str
    """The base, or the earlier result, that it started from."""
    fine_tuned_model: str | None
    """The name of its result; null unless it has succeeded."""
    training_file: str
    """Id of the file that it trains on."""
    validation_file: str | None
    """Id of the file that it is measured on; null where a part of the training file is, or none."""
    result_files: list[str]
    """Ids of files with its metrics as CSV."""
    hyperparameters: JobHyperparameters
    """The same as in `method`, without those of preference training."""
    method: JobMethod
    """What is learned."""
    trained_tokens: int | None
    """Tokens that were trained on; null before it has ended."""
    error: JobError | None
    """Why it failed; null unless it has."""
    seed: int
    """What shuffling, dropout and the adapter's start are drawn from."""
    organization_id: str
    """The project that it belongs to."""
    integrations: list[JobIntegration]
    """What else is told how the run goes."""
    metadata: dict[str, str] | None
    """Its labels; null where it was given none."""
    tunesmith: TunesmithJob
    """Everything that is ours."""


class JobPage(Page[JobObject]):
    """One page of a project's jobs, newest first."""


class JobsAhead(Answer):
    """Jobs whose turn comes first."""

    own_project: int
    """Of the job's own project."""
    other_projects: int
    """Of all others together."""


class WaitingFor(Answer):
    """What one class of live worker would do with the job."""

    worker_class: str
    """The class."""
    workers: int
    """How many live workers it has."""
    idle: int
    """How many of them have a free slot."""
    fits: bool
    """Whether the job fits."""
    refusal: str | None
    """Why it does not fit, with the number that forbids it; null where it fits."""
    expected_start: int | None
    """When the job is expected to start there, in Unix seconds; null where it does not fit."""


class JobWaiting(Answer):
    """Why a job has not started, what is ahead of it, and what would start it."""

    object: Literal["fine_tuning.job.waiting"] = "fine_tuning.job.waiting"
    """Always `fine_tuning.job.waiting`."""
    job_id: str
    """The job."""
    status: str
    """Where the job is; only `queued` ones wait for a worker."""
    queue_position: int | None
    """The place in line, from 1; null unless queued."""
    reason: str
    """Why it waits, in a sentence."""
    ahead: JobsAhead | None
    """Who comes first; null unless queued."""
    expected_start: int | None
    """When it is expected to start on some live worker, in Unix seconds; null where that cannot be told."""
    workers: list[WaitingFor]
    """What each class of live worker would do."""
    smallest_hardware: str | None
    """Where no live worker fits: the smallest machine of docs/hardware.md that would take it; null if none would."""
