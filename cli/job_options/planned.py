"""The options of `plan` alone: a model, data and hardware that need not be there."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.job_options.values import finite
from tunesmith.tuning.values.limits import MOST_ROW_TOKENS

PlannedFile = Annotated[
    str | None, typer.Argument(metavar="FILE", help="A JSONL file, whose rows are only counted here; or a file id.")
]
PlannedModelOption = Annotated[
    str | None, typer.Option(help="A model of the service; with --on any well-known one, such as Qwen/Qwen3-8B.")
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
DataOption = Annotated[str | None, typer.Option(metavar="FILE", help="Another way to name the file.")]
RowsOption = Annotated[int | None, typer.Option(min=1, max=2**53, help="Rows, of 500 tokens each, without a file.")]
TokensPerRowOption = Annotated[
    int | None, typer.Option(min=1, max=MOST_ROW_TOKENS, help="Tokens of a row, in the mean, without a file.")
]
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
