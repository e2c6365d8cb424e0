"""Verbs about uploaded files."""

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.job_options.values import labels_of
from tunesmith.cli.verbs.options import Listed, ListFormat

app = typer.Typer(no_args_is_help=True, help="Uploaded training files.")


def register(parent: typer.Typer) -> None:
    """Add the group to the command."""
    parent.add_typer(app, name="files", rich_help_panel="Jobs")


@app.command()
def ls(form: Listed = ListFormat.TABLE) -> None:
    """List uploaded files, newest first."""
    from tunesmith.cli.client import Client

    with Client() as client:
        files = client.list_files()
    if form is ListFormat.JSON:
        output.as_json(files)
        return
    rows = [
        (
            file.id,
            file.status,
            output.size(file.bytes),
            (file.tunesmith.report or {}).get("rows"),
            output.moment(file.created_at),
            file.filename,
        )
        for file in files
    ]
    output.table(("ID", "STATUS", "SIZE", "ROWS", "CREATED", "NAME"), rows)


@app.command()
def add(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="JSONL, or CSV, Parquet or a JSON array."),
    ],
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label that schedules find it by; many times.")
    ] = None,
) -> None:
    """Upload a training file and print what the check found."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.data.conversion import as_json_lines
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.progress import transfer, watched

    with (
        Client() as client,
        as_json_lines(path) as lines,
        transfer(f"upload {lines.name}", total_bytes=lines.stat().st_size) as advance,
    ):
        file = client.upload_file(lines, labels=labels_of(metadata), wrap=lambda stream: watched(stream, advance))
    output.data(f"{file.id}  {file.status}")
    if file.status == "error":
        output.note(file.status_details or "")
        raise typer.Exit(ExitCode.REJECTED)


@app.command()
def show(
    file_id: Annotated[str, typer.Argument(metavar="FILE_ID")],
    form: Listed = ListFormat.TABLE,
) -> None:
    """Show what the check of an uploaded file found: rows, tokens, repeats, suspected secrets, bad lines."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.data.report_text import length_lines, report_lines
    from tunesmith.tuning.api.base import recorded
    from tunesmith.tuning.datasets.rows import RowReport

    with Client() as client:
        file = client.file(file_id)
    if form is ListFormat.JSON:
        output.as_json(file)
        return
    output.data(f"{file.id}  {file.status}  {output.size(file.bytes)}  {file.filename}")
    if file.tunesmith.report is not None:
        known = {key: value for key, value in file.tunesmith.report.items() if key != "kind"}
        report = recorded(RowReport, known)
        for line in (*report_lines(report), *length_lines(report)):
            output.data(line)


@app.command()
def rm(file_id: Annotated[str, typer.Argument(metavar="FILE_ID")]) -> None:
    """Remove a file; jobs that were made from it keep its bytes."""
    from tunesmith.cli.client import Client

    with Client() as client:
        client.delete_file(file_id)
    output.note(f"removed {file_id}")
