"""Verbs about projects: projects ls, create, limit."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import Listed, ListFormat

if TYPE_CHECKING:
    from tunesmith.tuning.api.access.projects import ProjectObject

app = typer.Typer(no_args_is_help=True, help="Projects: what they may have, and what they have.")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_AS_IN_SETTINGS = "default"


def number_of(text: str) -> str:
    """`4`, `2.5`, `500G` or `default`, as text: what it means depends on the limit.

    Raises:
        typer.BadParameter: anything else.
    """
    if text != _AS_IN_SETTINGS:
        _number(text)
    return text


Name = Annotated[str, typer.Argument(help="The project: 1 to 40 of a-z, 0-9 and '-'.")]
Running = Annotated[
    str | None, typer.Option("--running", parser=number_of, metavar="N", help="Jobs that run at a time.")
]
Queued = Annotated[str | None, typer.Option("--queued", parser=number_of, metavar="N", help="Jobs in line.")]
Stored = Annotated[
    str | None, typer.Option("--stored", parser=number_of, metavar="SIZE", help="Bytes stored, such as 500G.")
]
GpuHours = Annotated[
    str | None, typer.Option("--gpu-hours", parser=number_of, metavar="H", help="GPU hours of a month.")
]


@app.command()
def ls(*, form: Listed = ListFormat.TABLE) -> None:
    """List projects with what they have and may have."""
    from tunesmith.cli.access.client import AdminClient

    with AdminClient() as client:
        found = client.projects()
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    output.table(("PROJECT", "RUNNING", "QUEUED", "STORED", "GPU HOURS"), [_row(project) for project in found])


@app.command()
@app.command("limit")
def create(
    name: Name, *, running: Running = None, queued: Queued = None, stored: Stored = None, gpu_hours: GpuHours = None
) -> None:
    """Create a project, or change its limits. What is not named stays; `default` is as the service's settings say."""
    from tunesmith.cli.access.client import AdminClient

    asked = {"running_jobs": running, "queued_jobs": queued, "stored_bytes": stored}
    limits: dict[str, Any] = {limit: _whole(text) for limit, text in asked.items() if text is not None}
    if gpu_hours is not None:
        limits["gpu_hours_per_month"] = None if gpu_hours == _AS_IN_SETTINGS else _number(gpu_hours)
    with AdminClient() as client:
        project = client.set_project_limits(name, limits)
    output.table(("PROJECT", "RUNNING", "QUEUED", "STORED", "GPU HOURS"), [_row(project)])


def _row(project: "ProjectObject") -> tuple[object, ...]:
    usage, limits = project.usage, project.limits
    return (
        project.id,
        _of(str(usage.running_jobs), limits.running_jobs),
        _of(str(usage.queued_jobs), limits.queued_jobs),
        _of(output.size(usage.stored_bytes), None if limits.stored_bytes is None else output.size(limits.stored_bytes)),
        _of(f"{usage.gpu_hours_this_month:.1f}", limits.gpu_hours_per_month),
    )


def _of(has: str, most: object) -> str:
    return has if most is None else f"{has} of {most}"


def _whole(text: str) -> int | None:
    return None if text == _AS_IN_SETTINGS else int(_number(text))


def _number(text: str) -> float:
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    try:
        number = float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        raise typer.BadParameter(f"{text!r} is no number; write it like 4, 2.5, 500G or default.") from None
    if not 0 <= number < 1e18:
        raise typer.BadParameter(f"{text!r} cannot be a limit.")
    return number
