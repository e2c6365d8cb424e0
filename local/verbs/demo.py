"""The verb `demo`: everything from nothing, once, in front of your eyes."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="The service")(demo)


def demo(
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where the demo keeps everything.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A quarter of the rows: about half the time, a smaller effect.")
    ] = False,
) -> None:
    """Fine-tune a real language model through the real service, from nothing (about 3 minutes on 2 cores)."""
    from tunesmith.local.demo.story import run

    raise typer.Exit(run(data_dir=data_dir, is_quick=quick))
