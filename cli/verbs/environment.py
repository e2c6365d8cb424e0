"""Verbs about this client: env, version."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output

_PANEL = "The service"


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(rich_help_panel=_PANEL)(env)
    app.command(rich_help_panel=_PANEL)(version)


def env(
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Of the `tunesmith up` to talk to.")] = None,
) -> None:
    """Print exports for this command and the openai client: eval "$(tunesmith env)"."""
    import shlex

    from tunesmith.cli.connection import find_connection

    connection = find_connection(data_dir=data_dir)
    for client in ("TUNESMITH_URL", "OPENAI_BASE_URL"):
        output.data(f"export {client}={shlex.quote(connection.base_url)}")
    for client in ("TUNESMITH_API_KEY", "OPENAI_API_KEY"):
        output.data(f"export {client}={shlex.quote(connection.api_key)}")


def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed_version

    output.data(installed_version("tunesmith"))
