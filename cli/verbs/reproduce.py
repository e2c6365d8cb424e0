"""The verb `reproduce`: run a finished job again exactly as it was, and say whether the result is the same."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import JobName, Listed, ListFormat, Timeout

if TYPE_CHECKING:
    from tunesmith.tuning.api.comparisons.reproductions import ReproductionObject

_SHOWN_CHARACTERS = 60


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="Jobs")(reproduce)


def reproduce(
    job: JobName,
    timeout: Timeout = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="With the same key again, this attaches to the job made the first time.")
    ] = None,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Repeat a finished job with the same data, base, seed and plan, and compare. Exits with 6 when they differ."""
    import uuid

    from tunesmith.cli.client import Client
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.job_names import find_job_id
    from tunesmith.cli.verbs.watch import watch_to_the_end

    with Client() as client:
        job_id = find_job_id(client, job)
        repeat = client.reproduce(job_id, idempotency_key=idempotency_key or uuid.uuid4().hex)
        output.note(f"{repeat.id} repeats {job_id}")
        code = watch_to_the_end(client, repeat.id, timeout_seconds=timeout)
        if code != ExitCode.SUCCEEDED:
            raise typer.Exit(code)
        found = client.reproduction(repeat.id)
    if form is ListFormat.JSON:
        output.as_json(found)
    else:
        for line in describe(found):
            output.data(line)
    raise typer.Exit(int(ExitCode.SUCCEEDED if found.verdict == "identical" else ExitCode.GATE))


def describe(found: "ReproductionObject") -> Iterator[str]:
    """The verdict, then what differs in weights, curve and circumstances."""
    same = sum(file.is_identical for file in found.weights)
    yield f"{found.verdict:<11} {found.job_id} repeats {found.reproduces}"
    yield f"  weights     {same} of {len(found.weights)} files have the same sha256"
    for name, gap in found.largest_differences.items():
        yield f"  {name:<11} {_distance(gap, found)}"
    for item in found.differences:
        yield f"  differs     {item.what}: {_short(item.first)} -> {_short(item.second)}"
    if found.verdict == "differs" and not found.differences:
        yield "  differs     nothing that was recorded: data, base, plan, code, versions and hardware are the same"


def _distance(gap: float | None, found: "ReproductionObject") -> str:
    if gap is None:
        return "not in both runs"
    if gap == 0:
        return f"the same over {found.steps_compared} steps"
    return f"up to {gap:.3g} apart over {found.steps_compared} steps, from step {found.first_different_step} on"


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
