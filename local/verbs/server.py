"""Verbs that run the service here or look at this machine: up, doctor."""

from pathlib import Path
from typing import Annotated

import typer

_PANEL = "The service"
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(rich_help_panel=_PANEL, context_settings=_PASSED_ON)(up)
    app.command(rich_help_panel=_PANEL)(doctor)


def up(context: typer.Context) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from tunesmith.local.up import command  # its options and imports wait until it is wanted

    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(command.up)
    inner(args=context.args, prog_name="tunesmith up")


def doctor(
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Where everything is kept. [default: ~/.local/share/tunesmith]")
    ] = None,
) -> None:
    """Look at this machine and this installation, and say what to do about what is wrong."""
    import os

    from tunesmith.cli.connection import default_data_dir
    from tunesmith.local.doctor import examine, show

    raise typer.Exit(show(examine((data_dir or default_data_dir()).expanduser().resolve(), environment=os.environ)))
