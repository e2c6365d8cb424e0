"""The body of a job's creation: the API's fields, and ours under `tunesmith`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.job import (
    Beta,
    EarlyStoppingPatience,
    Epochs,
    Hyperparameters,
    Integration,
    JobSpec,
    LearningRate,
    LoraOptions,
    Multiplier,
    RowsPerStep,
    RowTokens,
    Seed,
)
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.deadline import LATEST, SPAN
from tunesmith.tuning.words import Auto, Goal, Method, Objective, OnDroppedContent, OnLongRow, Validation

MOST_INTEGRATIONS = 5  # as in OpenAI's API
MOST_ATTEMPTS = 100
Priority = Annotated[int, Field(ge=-100, le=100)]
Deadline = Annotated[int, Field(ge=0, le=LATEST)] | Annotated[str, Field(pattern=f"^{SPAN}$")]


class SupervisedHyperparameters(Value):
    """See `tuning.job.Hyperparameters`, which says what each means and where its limits are."""

    n_epochs: Auto | Epochs = "auto"
    """Passes over the training rows."""
    batch_size: Auto | RowsPerStep = "auto"
    """Rows of one optimizer step, all processes together."""
    learning_rate_multiplier: Auto | Multiplier = "auto"
    """Scales the rate that the recipe rules choose."""
    early_stopping_patience: Auto | EarlyStoppingPatience = "auto"
    """Evaluations in a row without a lower validation loss after which training stops and the best weights become the
    result. `auto` trains to the end, or with few rows until the loss stops falling.
    """


class DpoHyperparameters(SupervisedHyperparameters):
    """Preference training has one more."""

    beta: Auto | Beta = "auto"
    """How strongly the model is held to where it started."""


class SupervisedMethod(Value):
    """`method.supervised`."""

    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()
    """What is not given is chosen by the planner."""


class DpoMethod(Value):
    """`method.dpo`."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()
    """What is not given is chosen by the planner."""


class MethodChoice(Value):
    """The API's `method`: what is learned. Ours, how weights change, is `tunesmith.method`."""

    type: Literal["supervised", "dpo", "reinforcement"]
    """What is learned; `reinforcement` is not offered and refused."""
    supervised: SupervisedMethod | None = None
    """Settings of supervised training."""
    dpo: DpoMethod | None = None
    """Settings of preference training."""
    reinforcement: dict[str, Any] | None = None
    """Refused."""


class RetryOptions(Value):
    """How a job that fails is tried again."""

    max_attempts: Annotated[int, Field(ge=1, le=MOST_ATTEMPTS)] | None = None
    """How many attempts may fail before the job has; 1 tries nothing again. The service's own number when absent."""


class TunesmithOptions(Value):
    """Everything that is ours, with the names and limits of `tuning.job.JobSpec`."""

    method: Auto | Method = "auto"
    """How the weights are changed; `auto` lets the planner choose and say why."""
    goal: Goal = Goal.BALANCED
    """What to prefer among plans that fit."""
    lora: LoraOptions = LoraOptions()
    """Settings of the adapter."""
    max_seq_length: Auto | RowTokens = "auto"
    """The longest row in tokens."""
    on_long_row: OnLongRow = "truncate"
    """What to do with a longer row: cut it and count it, or fail the job."""
    on_dropped_content: OnDroppedContent = "warn"
    """What to do when the chat template leaves out words of the assistant."""
    validation: Validation = "auto"
    """Without a `validation_file` a tenth of the rows, at most 200, is held out and measured on; `none` trains on every
    row.
    """
    learning_rate: Auto | LearningRate = "auto"
    """The highest rate, after warm-up; `auto` takes the recipe's."""
    merge: bool = False
    """Also leave a model with the adapter merged in."""
    priority: Priority = 0
    """Jobs with more go first; half an hour of waiting outweighs one step. -10 to 10, by admins -100 to 100."""
    deadline: Deadline | None = None
    """By when the job must have ended, in Unix seconds or from its creation on (`90m`, `6h`, `2d`); else it fails."""
    retry: RetryOptions = RetryOptions()
    """How it is tried again when it fails."""


class JobRequest(Value):
    """A job as asked for, whether to be made or only to be planned."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A base model's name, or that of an earlier result to train further."""
    validation_file: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Id of a file of rows that are only measured on."""
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """A word in the name of the result."""
    seed: Seed | None = None
    """The same seed, data and plan give the same result; one is drawn when it is absent."""
    method: MethodChoice | None = None
    """What is learned, and its hyperparameters; when absent, the rows of the training file say what."""
    hyperparameters: SupervisedHyperparameters | None = None
    """The older spelling of the method's hyperparameters; beside `method` it must not contradict them."""
    integrations: Annotated[tuple[Integration, ...], Field(max_length=MOST_INTEGRATIONS)] | None = None
    """What else is told how the run goes: kept with the job and handed to its worker, which has the keys."""
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    """Labels to find the job by."""
    tunesmith: TunesmithOptions = TunesmithOptions()
    """Everything that is ours."""

    def check(self) -> None:
        """Refuse what one field allows and another forbids.

        Raises:
            InvalidRequest: with the field.
        """
        self._check_early_stopping()
        if self.method is None:
            return
        if self.method.type == "reinforcement":
            message = "Reinforcement fine-tuning is not offered; use 'supervised' or 'dpo'."
            raise InvalidRequest(message, code=ErrorCode.UNSUPPORTED_VALUE, param="method.type")
        for name, value in _given(self.hyperparameters).items():
            if _given(self._method_hyperparameters()).get(name, value) != value:
                message = f"'method.{self.method.type}.hyperparameters.{name}' says something else."
                raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param=f"hyperparameters.{name}")
        for other in {"supervised", "dpo", "reinforcement"} - {self.method.type}:
            if getattr(self.method, other) is not None:
                message = f"'method.{other}' does not belong to a method of type {self.method.type!r}."
                raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param=f"method.{other}")

    @property
    def objective(self) -> Objective | None:
        """What is learned, if the request says it."""
        return None if self.method is None else Objective(self.method.type)

    def to_spec(self, *, seed: int, objective: Objective = Objective.SUPERVISED) -> JobSpec:
        """The same job as the planner and the worker see it. `seed` and `objective` are used when none was chosen."""
        ours = self.tunesmith
        return JobSpec(
            model=self.model,
            objective=self.objective or objective,
            hyperparameters=self._chosen_hyperparameters(),
            method=ours.method,
            goal=ours.goal,
            lora=ours.lora,
            max_seq_length=ours.max_seq_length,
            on_long_row=ours.on_long_row,
            on_dropped_content=ours.on_dropped_content,
            validation=ours.validation,
            learning_rate=ours.learning_rate,
            merge=ours.merge,
            integrations=self.integrations or (),
            seed=self.seed if self.seed is not None else seed,
        )

    def has_validation_rows(self) -> bool:
        """Whether there is something to measure on, or will be once rows are held out."""
        return self.validation_file is not None or self.tunesmith.validation == "auto"

    def _check_early_stopping(self) -> None:
        if self._chosen_hyperparameters().early_stopping_patience == "auto" or self.has_validation_rows():
            return
        where = f"method.{self.method.type}.hyperparameters" if self.method else "hyperparameters"
        raise InvalidRequest(
            f"'{where}.early_stopping_patience' needs held-out rows: it counts evaluations on them.",
            code=ErrorCode.MISSING_REQUIRED_PARAMETER,
            param="validation_file",
            hint="Send a validation_file, or leave out tunesmith.validation 'none': then a tenth is held out.",
        )

    def _chosen_hyperparameters(self) -> Hyperparameters:
        return Hyperparameters(**_given(self.hyperparameters) | _given(self._method_hyperparameters()))

    def _method_hyperparameters(self) -> SupervisedHyperparameters | None:
        settings = (self.method.dpo or self.method.supervised) if self.method else None
        return settings.hyperparameters if settings else None


class JobCreate(JobRequest):
    """`POST /v1/fine_tuning/jobs`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "my-base", "training_file": "file-1", "tunesmith": {"goal": "quality"}}]
        }
    )

    training_file: Annotated[str, Field(min_length=1, max_length=256)]
    """Id of a file of rows to train on, uploaded with purpose `fine-tune`."""


class PriorityChange(Value):
    """`POST /v1/fine_tuning/jobs/{job_id}/priority`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"priority": 3}]})

    priority: Priority
    """Jobs with more go first; half an hour of waiting outweighs one step. -10 to 10, by admins -100 to 100."""


def _given(hyperparameters: SupervisedHyperparameters | None) -> dict[str, Any]:
    """Those that the caller wrote down."""
    return hyperparameters.model_dump(exclude_unset=True) if hyperparameters else {}
