"""The options by which `submit` and `plan` describe a job: what each takes and what `--help` says of it."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.verbs.options import finite
from tunesmith.tuning.values.limits import (
    LEAST_ROW_TOKENS,
    MOST_EPOCHS,
    MOST_PATIENCE,
    MOST_RANK,
    MOST_ROW_TOKENS,
    MOST_ROWS_PER_STEP,
)
from tunesmith.tuning.words import AutoOrMethod, Goal, Objective, OnDroppedContent, OnLongRow, Validation

# Both verbs.
MethodOption = Annotated[AutoOrMethod, typer.Option(help="auto lets the planner choose and say why.")]
GoalOption = Annotated[Goal, typer.Option(help="What to prefer among plans that fit.")]
Float8BaseOption = Annotated[
    bool, typer.Option("--float8-base", help="Multiply LoRA's frozen base in 8 bits, on GPUs that can.")
]
ObjectiveOption = Annotated[Objective | None, typer.Option(help="What is learned; a file's rows say so by themselves.")]

# `submit`: the service checks bounds, so that its answer and this command's can never differ.
ValidationOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|none",
        help="A JSONL file (or id) that is only measured on; none trains on every row. Else a tenth is held out.",
    ),
]
EpochsOption = Annotated[int | None, typer.Option(help=f"Passes over the data; 1 to {MOST_EPOCHS}.")]
BatchSizeOption = Annotated[int | None, typer.Option(help=f"Rows per optimizer step; 1 to {MOST_ROWS_PER_STEP}.")]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        help="Stop after so many evaluations without a lower validation loss and keep the best weights; "
        f"1 to {MOST_PATIENCE}."
    ),
]
OnLongRowOption = Annotated[
    OnLongRow, typer.Option(help="truncate cuts a longer row and counts it; refuse fails the job.")
]
OnDroppedContentOption = Annotated[
    OnDroppedContent,
    typer.Option(help="When the chat template leaves out words of the assistant: say so, or refuse to train."),
]
IdempotencyKeyOption = Annotated[
    str | None, typer.Option(help="With the same key again, this attaches to the job made the first time.")
]

# `plan`: without a service there is nobody else to check bounds.
PlannedFile = Annotated[
    str | None, typer.Argument(metavar="FILE", help="A JSONL file, whose rows are only counted here; or a file id.")
]
PlannedModelOption = Annotated[
    str | None, typer.Option(help="A model of the service; with --on any well-known one, such as Qwen/Qwen3-8B.")
]
PlannedValidationOption = Annotated[
    Validation, typer.Option(help="auto holds out a tenth of the rows, at most 200; none trains on every row.")
]
ConfigOption = Annotated[Path | None, typer.Option(help="Any model, by its config.json or the folder that holds it.")]
HardwareOption = Annotated[
    str | None,
    typer.Option(
        metavar="HARDWARE",
        help="Instead of the live workers: 1xRTX4090,8xA100-80G, 1xA100:30G (30 GiB free), 'A100 3g.40gb' "
        "(a slice), CPU. Needs no service.",
    ),
]
HostMemoryOption = Annotated[
    float | None,
    typer.Option(metavar="GIB", min=0.1, max=1e6, callback=finite, help="Host memory of what --on names; 240."),
]
DataOption = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Another way to name the file.")]
RowsOption = Annotated[int | None, typer.Option(min=1, max=2**53, help="Rows, of 500 tokens each, without a file.")]
TokensPerRowOption = Annotated[
    int | None, typer.Option(min=1, max=MOST_ROW_TOKENS, help="Tokens of a row, in the mean, without a file.")
]
PlannedEpochsOption = Annotated[int | None, typer.Option(min=1, max=MOST_EPOCHS, help="Passes over the data.")]
PlannedLengthOption = Annotated[int | None, typer.Option(min=LEAST_ROW_TOKENS, help="Longest row in tokens.")]
PlannedRankOption = Annotated[int | None, typer.Option(min=1, max=MOST_RANK, help="Rank of the adapter.")]
PriceOption = Annotated[
    float | None,
    typer.Option(min=0, max=1e6, callback=finite, help="Money for an hour of one GPU, or of a host without any."),
]
TableOption = Annotated[
    bool, typer.Option("--table", help="Memory by method, and the smallest GPU for each, for this model.")
]
AccuracyOption = Annotated[
    bool, typer.Option("--accuracy", help="Predicted beside measured for the runs that have finished.")
]
WhyOption = Annotated[bool, typer.Option("--why", help="Every reason, not the first three.")]
