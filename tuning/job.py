"""What a user may ask for. `auto` means: the planner chooses, and the plan shows the number and why."""

from datetime import date
from typing import Annotated, Literal

from pydantic import Field

from tunesmith.tuning.evaluation import EvaluationSpec
from tunesmith.tuning.models.linears import Targets
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.limits import (
    LARGEST_SEED,
    LEAST_ROW_TOKENS,
    MOST_EPOCHS,
    MOST_PATIENCE,
    MOST_RANK,
    MOST_ROW_TOKENS,
    MOST_ROWS_PER_STEP,
)
from tunesmith.tuning.words import Auto, Goal, Method, Objective, OnDroppedContent, OnLongRow, Validation

Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
RowsPerStep = Annotated[int, Field(ge=1, le=MOST_ROWS_PER_STEP)]
EarlyStoppingPatience = Annotated[int, Field(ge=1, le=MOST_PATIENCE)]
Multiplier = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Beta = Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
RowTokens = Annotated[int, Field(ge=LEAST_ROW_TOKENS, le=MOST_ROW_TOKENS)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


class Hyperparameters(Value):
    """The API's own knobs, and one more.

    `learning_rate_multiplier` scales the rate that the recipe rules choose. `early_stopping_patience` is how many
    evaluations in a row may pass without a lower validation loss before training stops and the best weights become the
    result; `auto` trains to the end, or with few rows until the loss stops falling.
    """

    n_epochs: Auto | Epochs = "auto"
    batch_size: Auto | RowsPerStep = "auto"
    learning_rate_multiplier: Auto | Multiplier = "auto"
    beta: Auto | Beta = "auto"
    early_stopping_patience: Auto | EarlyStoppingPatience = "auto"


class LoraOptions(Value):
    """Knobs of the adapter."""

    rank: Auto | Annotated[int, Field(ge=1, le=MOST_RANK)] = "auto"
    """Inner size of the adapter's two matrices."""
    alpha: Auto | Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)] = "auto"
    """The adapter's output is scaled by alpha over rank."""
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """Share of the adapter's inputs that is zeroed in training."""
    target_modules: Targets = "all-linear"
    """Which matrices are adapted: a group's name, or suffixes of module names such as `q_proj`.

    `all-linear+experts` also gives every expert of a mixture an adapter of its own.
    """
    use_rslora: bool = False
    """Divide alpha by the square root of the rank instead of the rank."""
    use_dora: bool = False
    """Learn direction and length of the weights apart (DoRA)."""
    init: Literal["default", "pissa"] = "default"
    """Start from zero, or from the largest singular vectors of the base."""
    float8_base: bool = False
    """Multiply the frozen base in 8 bits: LoRA on GPUs of compute capability 8.9 and higher."""


class WandbRun(Value):
    """Where a run's curves go in Weights & Biases."""

    project: Annotated[str, Field(min_length=1, max_length=128)]
    """The project there."""
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """What the run is called; the job's id unless given."""
    entity: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """The team or user there; the key's own unless given."""
    tags: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=50)] = ()
    """Words to find the run by."""


class Integration(Value):
    """Something else that is told how a run goes."""

    type: Literal["wandb"]
    """Weights & Biases, the one that the API knows."""
    wandb: WandbRun
    """Its settings."""


class JobSpec(Value):
    """A job as asked for, after the API's shape has been taken off and before anything has been decided."""

    model: str
    objective: Objective = Objective.SUPERVISED
    hyperparameters: Hyperparameters = Hyperparameters()
    method: Auto | Method = "auto"
    goal: Goal = Goal.BALANCED
    lora: LoraOptions = LoraOptions()
    max_seq_length: Auto | RowTokens = "auto"
    on_long_row: OnLongRow = "truncate"
    on_dropped_content: OnDroppedContent = "warn"
    validation: Validation = "auto"
    template_date: date = date(2026, 1, 1)  # the day that chat templates print: the same at every attempt
    learning_rate: Auto | LearningRate = "auto"
    merge: bool = False
    continues_adapter: bool = False  # `model` is an adapter: it is trained on, not thrown away
    integrations: tuple[Integration, ...] = ()  # that the worker tells how the run goes
    evaluation: EvaluationSpec | None = None  # nothing is trained: models are measured on the training file
    seed: Seed


class DatasetFacts(Value):
    """What the check at upload counted. Token counts are estimates until a worker has tokenised the rows."""

    rows: int
    """Rows to train on, those held out not among them."""
    validation_rows: int = 0
    """Rows to evaluate on."""
    held_out_rows: int = 0
    """Of the validation rows, those taken from the training file."""
    tokens: int
    """Tokens of the rows to train on."""
    longest_row_tokens: int
    """Tokens of the longest of them."""
    supervised_tokens: int
    """Of the tokens, those that the model is taught to write."""
    tokens_are_exact: bool = False
    """Whether every row was tokenised; else token counts are estimates."""
    measured_rows: int = 0
    """Rows whose tokens the model's own tokenizer counted; the others are taken to be like them."""
    row_length_counts: tuple[int, ...] = ()
    """Rows by length, in the buckets of `tuning.datasets.lengths`; empty where they were not counted."""

    @property
    def all_rows(self) -> int:
        """Those trained on and those held out of the same file."""
        return self.rows + self.held_out_rows
