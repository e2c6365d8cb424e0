"""The body of a job's creation: the API's fields, and ours under `tunesmith`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.job import (
    Beta,
    EarlyStoppingPatience,
    Epochs,
    Hyperparameters,
    JobSpec,
    LearningRate,
    LoraOptions,
    Multiplier,
    RowsPerStep,
    RowTokens,
    Seed,
)
from tunesmith.tuning.words import Auto, Goal, Method, Objective, OnDroppedContent, OnLongRow, Validation


class Body(BaseModel):
    """Closed to unknown keys, so that a typo is never silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SupervisedHyperparameters(Body):
    """See `tuning.job.Hyperparameters`, which says what each means and where its limits are."""

    n_epochs: Auto | Epochs = "auto"
    batch_size: Auto | RowsPerStep = "auto"
    learning_rate_multiplier: Auto | Multiplier = "auto"
    early_stopping_patience: Auto | EarlyStoppingPatience = "auto"


class DpoHyperparameters(SupervisedHyperparameters):
    """Preference training has one more."""

    beta: Auto | Beta = "auto"


class SupervisedMethod(Body):
    """`method.supervised`."""

    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()


class DpoMethod(Body):
    """`method.dpo`."""

    hyperparameters: DpoHyperparameters = DpoHyperparameters()


class MethodChoice(Body):
    """The API's `method`: what is learned. Ours, how weights change, is `tunesmith.method`."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None
    dpo: DpoMethod | None = None
    reinforcement: dict[str, Any] | None = None


class TunesmithOptions(Body):
    """Everything that is ours, with the names and limits of `tuning.job.JobSpec`.

    Without a `validation_file` a tenth of the rows, at most 200, is held out and measured on, unless `validation` is
    `none`.
    """

    method: Auto | Method = "auto"
    goal: Goal = Goal.BALANCED
    lora: LoraOptions = LoraOptions()
    max_seq_length: Auto | RowTokens = "auto"
    on_long_row: OnLongRow = "truncate"
    on_dropped_content: OnDroppedContent = "warn"
    validation: Validation = "auto"
    learning_rate: Auto | LearningRate = "auto"
    merge: bool = False
    priority: Annotated[int, Field(ge=-100, le=100)] = 0


class JobRequest(Body):
    """A job as asked for, whether to be made or only to be planned."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    validation_file: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Seed | None = None
    method: MethodChoice | None = None
    hyperparameters: SupervisedHyperparameters | None = None
    integrations: list[dict[str, Any]] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    tunesmith: TunesmithOptions = TunesmithOptions()

    def check(self) -> None:
        """Refuse what one field allows and another forbids.

        Raises:
            InvalidRequest: with the field.
        """
        if self.integrations:
            raise InvalidRequest(
                "No integration is available here.", code=ErrorCode.UNSUPPORTED_VALUE, param="integrations"
            )
        self._check_early_stopping()
        if self.method is None:
            return
        if self.method.type == "reinforcement":
            message = "Reinforcement fine-tuning is not offered; use 'supervised' or 'dpo'."
            raise InvalidRequest(message, code=ErrorCode.UNSUPPORTED_VALUE, param="method.type")
        if self.hyperparameters is not None:
            message = (
                "'hyperparameters' is the older spelling of 'method.supervised.hyperparameters': send one of the two."
            )
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="hyperparameters")
        for other in {"supervised", "dpo", "reinforcement"} - {self.method.type}:
            if getattr(self.method, other) is not None:
                message = f"'method.{other}' does not belong to a method of type {self.method.type!r}."
                raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param=f"method.{other}")

    def to_spec(self, *, seed: int) -> JobSpec:
        """The same job as the planner and the worker see it. `seed` is used when the caller chose none."""
        ours = self.tunesmith
        return JobSpec(
            model=self.model,
            objective=Objective.DPO if self.method and self.method.type == "dpo" else Objective.SUPERVISED,
            hyperparameters=Hyperparameters(**self._chosen_hyperparameters().model_dump()),
            method=ours.method,
            goal=ours.goal,
            lora=ours.lora,
            max_seq_length=ours.max_seq_length,
            on_long_row=ours.on_long_row,
            on_dropped_content=ours.on_dropped_content,
            validation=ours.validation,
            learning_rate=ours.learning_rate,
            merge=ours.merge,
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

    def _chosen_hyperparameters(self) -> SupervisedHyperparameters:
        if self.method and self.method.type == "dpo":
            return (self.method.dpo or DpoMethod()).hyperparameters
        if self.method and self.method.supervised:
            return self.method.supervised.hyperparameters
        return self.hyperparameters or SupervisedHyperparameters()


class JobCreate(JobRequest):
    """`POST /v1/fine_tuning/jobs`."""

    training_file: Annotated[str, Field(min_length=1, max_length=256)]
