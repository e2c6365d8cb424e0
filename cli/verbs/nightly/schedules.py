"""Verbs about schedules: schedules create, ls, show, pause, resume, run, history, verdict, rm."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from tunesmith.cli import output
from tunesmith.cli.job_options.values import labels_of
from tunesmith.cli.verbs.options import Listed, ListFormat
from tunesmith.tuning.values.json_objects import Json, present
from tunesmith.tuning.values.units import plural
from tunesmith.tuning.words import Missed, Overlap, Promotion, StartFrom

if TYPE_CHECKING:
    from tunesmith.tuning.api.nightly.reports import ScheduleReportObject
    from tunesmith.tuning.api.nightly.schedules import FiringObject, ScheduleObject

app = typer.Typer(no_args_is_help=True, help="Jobs that are made again and again.")

Name = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its name or id.")]


@app.command()
def create(
    file: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Everything in one JSON or YAML file.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    cron: Annotated[str | None, typer.Option(help="Minute, hour, day, month, day of week: '0 3 * * *'.")] = None,
    timezone: Annotated[str | None, typer.Option(help="Whose clock that is about; UTC.")] = None,
    model: Annotated[str | None, typer.Option(help="What jobs start from: a model or an alias.")] = None,
    file_id: Annotated[str | None, typer.Option(help="Train on this file.")] = None,
    filename: Annotated[str | None, typer.Option(help="Train on the newest file of this name.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Train on the newest file with these labels.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Train on what this https address holds.")] = None,
    start_from: Annotated[
        StartFrom | None, typer.Option(help="champion: go on from what the alias stands for.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="The name that results are promoted to.")] = None,
    promotion: Annotated[Promotion | None, typer.Option(help="When a result is promoted; never.")] = None,
    overlap: Annotated[Overlap | None, typer.Option(help="While an earlier job has not ended; skip.")] = None,
    missed: Annotated[Missed | None, typer.Option(help="When nothing could fire in time; run_latest.")] = None,
    jitter_seconds: Annotated[int | None, typer.Option(help="Fire up to so much later, always the same.")] = None,
    keep_results: Annotated[int | None, typer.Option(help="Delete all but so many results nobody needs.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Give one of this name these settings.")] = False,
) -> None:
    """Create a schedule from a file, from options, or from a file with options in its place."""
    from tunesmith.cli.verbs.nightly.settings_file import read

    data = present(file=file_id, filename=filename, metadata=labels_of(metadata) or None, url=url)
    options = present(
        name=name,
        cron=cron,
        timezone=timezone,
        data=data or None,
        start_from=start_from,
        alias=alias,
        promotion=promotion,
        overlap=overlap,
        missed=missed,
        jitter_seconds=jitter_seconds,
        keep_results=keep_results,
    )
    body = {**(read(file) if file else {}), **options}
    if model is not None:
        job = body.get("job")
        body["job"] = {**(job if isinstance(job, dict) else {}), "model": model}
    if replace and not body.get("name"):
        raise typer.BadParameter("Which schedule? Give --name, or a name in the file.", param_hint="--replace")
    _created(_send(body, replaces=replace))


@app.command()
def ls(form: Listed = ListFormat.TABLE) -> None:
    """List schedules with when they fire next and what became of the last time."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.schedules import ScheduleList

    with Client() as client:
        found = client.ask(ScheduleList, "GET", "/schedules").data
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    output.table(("NAME", "CRON", "NEXT", "LAST", "WHY"), [_row(schedule) for schedule in found])


@app.command()
def show(name: Name, form: Listed = ListFormat.TABLE) -> None:
    """Show one schedule: its settings and its next due times."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.schedules import ScheduleObject

    with Client() as client:
        schedule = client.ask(ScheduleObject, "GET", _path(name))
    if form is ListFormat.JSON:
        output.as_json(schedule)
        return
    for line in _described(schedule):
        output.data(line)


@app.command()
def pause(name: Name) -> None:
    """Leave out due times until it is resumed."""
    _created(_act(name, "pause"))


@app.command()
def resume(name: Name) -> None:
    """Go on with the next due time."""
    _created(_act(name, "resume"))


@app.command()
def run(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Make a job even when nothing has changed.")] = False,
    idempotency_key: Annotated[str | None, typer.Option(help="With the same key again, it fires once.")] = None,
) -> None:
    """Fire now; a keeper decides about it within seconds."""
    import uuid

    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.schedules import FiringObject

    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    with Client() as client:
        firing = client.ask(
            FiringObject, "POST", f"{_path(name)}/run", json={"force": force}, headers=headers, is_repeatable=True
        )
    output.data(firing.id)
    output.note(f"{firing.state}; see what becomes of it with: tunesmith schedules history {name}")


@app.command()
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, newest first.")] = 20,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Show each due time with what was decided and why."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.schedules import FiringPage

    with Client() as client:
        firings = client.ask(FiringPage, "GET", f"{_path(name)}/firings", params={"limit": limit}).data
    if form is ListFormat.JSON:
        output.as_json(firings)
        return
    output.table(("DUE", "STATE", "FIRING", "JOB", "MODEL", "WHY"), [_line(firing) for firing in firings])


@app.command()
def report(
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most this many due times, newest first.")] = 7,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Show what each due time cost: wall, waiting, starting and training of all its jobs."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.reports import ScheduleReportList

    with Client() as client:
        found = client.ask(ScheduleReportList, "GET", "/schedule_reports", params={"limit": limit}).data
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    columns = ("DUE", "FIRINGS", "TRAINED", "WALL", "LONGEST WAIT", "STARTING", "TRAINING", "WALL/TRAINING", "BASES")
    output.table(columns, [_cost(night) for night in found])


@app.command()
def verdict(
    name: Name,
    firing: Annotated[str, typer.Argument(metavar="FIRING", help="The firing's id, as `history` shows it.")],
    word: Annotated[str, typer.Argument(metavar="VERDICT", help="better, not_better or inconclusive.")],
    reason: Annotated[str | None, typer.Option(help="Why, for the history.")] = None,
    numbers: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A JSON file of numbers.")] = None,
    champion: Annotated[str | None, typer.Option(help="What it was compared with.")] = None,
) -> None:
    """Say whether a result is better than the champion; better promotes it. Exits with 6 when it was not promoted."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.verbs.nightly.settings_file import read_numbers
    from tunesmith.tuning.api.nightly.schedules import FiringObject

    body = present(
        verdict=word,
        summary=reason,
        numbers=read_numbers(numbers) if numbers else None,
        champion=champion,
    )
    path = f"{_path(name)}/firings/{quote(firing, safe='')}/verdict"
    with Client() as client:
        judged = client.ask(FiringObject, "POST", path, json=body, is_repeatable=True)
    output.data(judged.state)
    if judged.reason:
        output.note(judged.reason)
    if judged.state != "promoted":
        raise typer.Exit(ExitCode.GATE)


@app.command()
def rm(name: Name) -> None:
    """Fire no more; jobs that were made go on."""
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.lists import Deleted

    with Client() as client:
        client.ask(Deleted, "DELETE", _path(name))
    output.note(f"removed {name}")


def _send(body: Json, *, replaces: bool) -> "ScheduleObject":
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.schedules import ScheduleObject

    with Client() as client:
        if not replaces:
            return client.ask(ScheduleObject, "POST", "/schedules", json=body, is_repeatable=True)
        settings = {key: value for key, value in body.items() if key != "name"}
        return client.ask(ScheduleObject, "PUT", _path(str(body.get("name"))), json=settings)


def _act(name: str, action: str) -> "ScheduleObject":
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.nightly.schedules import ScheduleObject

    with Client() as client:
        return client.ask(ScheduleObject, "POST", f"{_path(name)}/{action}", is_repeatable=True)


def _created(schedule: "ScheduleObject") -> None:
    output.data(schedule.id)
    following = schedule.next_due[0].local_time if schedule.next_due else "paused"
    output.note(f"{schedule.name}, next: {following}")


def _path(name: str) -> str:
    return f"/schedules/{quote(name, safe='')}"


def _row(schedule: "ScheduleObject") -> tuple[object, ...]:
    following = schedule.next_due[0].local_time if schedule.next_due else "paused" if schedule.paused else None
    last = schedule.last_firing
    return (schedule.name, schedule.settings["cron"], following, last and last.state, last and last.reason)


def _line(firing: "FiringObject") -> tuple[object, ...]:
    return (output.moment(firing.due_at), firing.state, firing.id, firing.job_id, firing.model, firing.reason)


def _cost(night: "ScheduleReportObject") -> tuple[object, ...]:
    seconds = (night.wall_seconds, night.longest_wait_seconds, night.startup_seconds, night.training_seconds)
    return (
        output.moment(night.due_at),
        ", ".join(f"{number} {state}" for state, number in sorted(night.firings.items())),
        night.trained,
        *(None if spent is None else output.duration(spent) for spent in seconds),
        None if night.wall_over_training is None else f"{night.wall_over_training:.2f}",
        f"{plural(night.base_changes, 'change')}",
    )


def _described(schedule: "ScheduleObject") -> Iterator[str]:
    yield f"{schedule.name}  {schedule.id}{'  paused' if schedule.paused else ''}"
    for key, value in schedule.settings.items():
        if value is not None:
            yield f"{key:15} {_shown(value)}"
    for due in schedule.next_due:
        yield f"{'next':15} {due.local_time}  fires {output.moment(due.fires_at)}"


def _shown(value: Any) -> str:
    return json.dumps(_given(value), ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)


def _given(value: Any) -> Any:
    """Without what was left open."""
    if not isinstance(value, dict):
        return value
    inner = {key: _given(part) for key, part in value.items()}
    return {key: part for key, part in inner.items() if part is not None and part != {}}
