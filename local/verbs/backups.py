"""The verbs `backup` and `restore`: an embedded installation as one folder, and back."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.output import note

_PANEL = "The service"
_DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where everything is kept. [default: ~/.local/share/tunesmith]")
]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command(rich_help_panel=_PANEL)(backup)
    app.command(rich_help_panel=_PANEL)(restore)


def backup(
    to: Annotated[Path, typer.Argument(help="An empty or a new folder.")],
    data_dir: _DataDir = None,
) -> None:
    """Copy database, keys and stored files of this machine's installation; it may go on running."""
    import shlex
    from importlib.metadata import version as installed_version

    from tunesmith.cli.connection import default_data_dir
    from tunesmith.local.backup.backup import back_up
    from tunesmith.local.up.layout import Layout
    from tunesmith.tuning.values.units import gib

    layout = Layout((data_dir or default_data_dir()).expanduser().resolve())
    made = back_up(layout, to.expanduser().resolve(), version=installed_version("tunesmith"))
    read_in = f"tunesmith restore {shlex.quote(str(to))}"
    note(f"{len(made.files)} files, {gib(made.total_bytes)}, each hashed; read it in with: {read_in}")
    note("it has the admin's key in it: keep it where only you can read it, and on another disk")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A folder that `tunesmith backup` has written.")],
    data_dir: _DataDir = None,
) -> None:
    """Verify a backup and make an installation of it in an empty data directory."""
    from tunesmith.cli.connection import data_dir_option, default_data_dir
    from tunesmith.local.backup.restore import restore as read_in
    from tunesmith.local.up.layout import Layout

    layout = Layout((data_dir or default_data_dir()).expanduser().resolve())
    made = read_in(source.expanduser().resolve(), layout)
    note(f"{len(made.files)} files are right and in place; start it with: tunesmith up{data_dir_option(layout.root)}")
