"""What `plan` and `submit` both take: what is learned, how, and by which adapter.

The service checks the bounds, so that its answer and this command's can never differ.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from tunesmith.cli.job_options.values import finite
from tunesmith.cli.learning import Learning
from tunesmith.tuning.values.json_objects import Json, present
from tunesmith.tuning.values.limits import MOST_EPOCHS, MOST_PATIENCE, MOST_RANK, MOST_ROWS_PER_STEP
from tunesmith.tuning.words import AutoOrMethod, Goal, Objective, OnDroppedContent, OnLongRow

_GROUPS = ("attention", "attention_mlp", "all-linear", "all-linear+experts")


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """The part of a job that a plan depends on; None where the planner or the service chooses."""

    method: Annotated[AutoOrMethod, typer.Option(help="auto lets the planner choose and say why.")] = "auto"
    goal: Annotated[Goal, typer.Option(help="What to prefer among plans that fit.")] = Goal.BALANCED
    objective: Annotated[
        Objective | None, typer.Option(help="What is learned; a file's rows say so by themselves.")
    ] = None
    beta: Annotated[
        float | None, typer.Option(callback=finite, help="DPO: how strongly the model is held to where it was.")
    ] = None
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            help="A JSONL file (or id) that is only measured on; none trains on every row. Else a tenth is held out.",
        ),
    ] = None
    epochs: Annotated[int | None, typer.Option(help=f"Passes over the data; 1 to {MOST_EPOCHS}.")] = None
    batch_size: Annotated[int | None, typer.Option(help=f"Rows per optimizer step; 1 to {MOST_ROWS_PER_STEP}.")] = None
    learning_rate: Annotated[
        float | None, typer.Option(callback=finite, help="The highest rate, after warm-up, instead of the recipe's.")
    ] = None
    learning_rate_multiplier: Annotated[
        float | None, typer.Option(callback=finite, help="Scales the rate the recipe chooses.")
    ] = None
    early_stopping_patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after so many evaluations without a lower validation loss and keep the best weights; "
            f"1 to {MOST_PATIENCE}."
        ),
    ] = None
    max_seq_length: Annotated[
        int | None, typer.Option(help="Longest row in tokens; see --on-long-row for longer ones.")
    ] = None
    on_long_row: Annotated[
        OnLongRow, typer.Option(help="truncate cuts a longer row and counts it; refuse fails the job.")
    ] = "truncate"
    on_dropped_content: Annotated[
        OnDroppedContent,
        typer.Option(help="When the chat template leaves out words of the assistant: say so, or refuse to train."),
    ] = "warn"
    rank: Annotated[int | None, typer.Option(help=f"Rank of the adapter; 1 to {MOST_RANK}.")] = None
    alpha: Annotated[
        float | None, typer.Option(callback=finite, help="The adapter's output is scaled by alpha over rank.")
    ] = None
    dropout: Annotated[
        float | None, typer.Option(callback=finite, help="Share of the adapter's inputs that is zeroed; below 1.")
    ] = None
    target_modules: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help=f"Which matrices are adapted: {', '.join(_GROUPS)}, or q_proj,v_proj."),
    ] = None
    use_rslora: Annotated[bool, typer.Option("--use-rslora", help="Divide alpha by the root of the rank.")] = False
    use_dora: Annotated[bool, typer.Option("--use-dora", help="Learn direction and length of weights apart.")] = False
    init: Annotated[
        Literal["default", "pissa"], typer.Option(help="Start the adapter from zero, or from the base's own weights.")
    ] = "default"
    float8_base: Annotated[
        bool, typer.Option("--float8-base", help="Multiply LoRA's frozen base in 8 bits, on GPUs that can.")
    ] = False
    merge: Annotated[bool, typer.Option("--merge", help="Also leave a model with the adapter merged in.")] = False

    @property
    def trains_on_all(self) -> bool:
        """Whether no row is held out."""
        return self.validation == "none"

    @property
    def validation_source(self) -> str | None:
        """The file, here or in the service, that is only measured on."""
        return None if self.trains_on_all else self.validation

    @property
    def learning(self) -> Learning:
        """What is learned, and how often and fast. A beta says that it is from preference pairs.

        Raises:
            typer.BadParameter: an option belongs to another objective.
        """
        if self.beta is not None and self.objective not in (None, Objective.DPO):
            raise typer.BadParameter(f"It is of DPO, and --objective says {self.objective}.", param_hint="--beta")
        objective = self.objective if self.beta is None else Objective.DPO
        hyperparameters = present(
            beta=self.beta,
            n_epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate_multiplier=self.learning_rate_multiplier,
            early_stopping_patience=self.early_stopping_patience,
        )
        return Learning(objective, hyperparameters)

    @property
    def ours(self) -> Json:
        """A request's `tunesmith`."""
        return present(
            method=self.method,
            goal=self.goal,
            lora=self._lora or None,
            max_seq_length=self.max_seq_length,
            on_long_row=self.on_long_row,
            on_dropped_content=self.on_dropped_content,
            validation="none" if self.trains_on_all else None,
            learning_rate=self.learning_rate,
            merge=self.merge or None,
        )

    @property
    def _lora(self) -> Json:
        return present(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            target_modules=None if self.target_modules is None else _targets(self.target_modules),
            use_rslora=self.use_rslora or None,
            use_dora=self.use_dora or None,
            init=None if self.init == "default" else self.init,
            float8_base=self.float8_base or None,
        )


def _targets(text: str) -> str | list[str]:
    """A group's name, or the ends of modules' names."""
    return text if text in _GROUPS else [name.strip() for name in text.split(",") if name.strip()]
