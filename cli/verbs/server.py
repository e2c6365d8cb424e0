"""Verbs about the service itself: up, doctor, env, version."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output

_PANEL = "The service"
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(rich_help_panel=_PANEL, context_settings=_PASSED_ON)(up)
    app.command(rich_help_panel=_PANEL, context_settings=_PASSED_ON)(doctor)
    app.command(rich_help_panel=_PANEL)(env)
    app.command(rich_help_panel=_PANEL)(version)


def up(context: typer.Context) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    _pass_on("up", context.args)


def doctor(context: typer.Context) -> None:
    """Look at this machine and this installation, and say what is wrong."""
    _pass_on("doctor", context.args)


def env(
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Of the `tunesmith up` to talk to.")] = None,
) -> None:
    """Print exports for the openai client: eval "$(tunesmith env)"."""
    import shlex

    from tunesmith.cli.connection import find_connection

    connection = find_connection(data_dir=data_dir)
    output.data(f"export OPENAI_BASE_URL={shlex.quote(connection.base_url)}")
    output.data(f"export OPENAI_API_KEY={shlex.quote(connection.api_key)}")


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    output.data(installed_version("tunesmith"))


def _pass_on(verb: str, arguments: list[str]) -> None:
    """Run a verb that reads its own options, so that its imports wait until it is wanted."""
    from tunesmith.cli.up import command

    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(getattr(command, verb))
    inner(args=arguments, prog_name=f"tunesmith {verb}")
