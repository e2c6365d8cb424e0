"""The verbs `ci run` and `ci schema`."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import seconds_of

if TYPE_CHECKING:
    from tunesmith.cli.ci.data_check import CheckedFile
    from tunesmith.cli.ci.ending import Ending
    from tunesmith.cli.ci.job_file import Loaded
    from tunesmith.cli.ci.pipeline import Pipeline
    from tunesmith.cli.ci.run import Terms

app = typer.Typer(no_args_is_help=True, help="Jobs in pipelines: from a file, judged, and reported.")

_LONGEST_KEY = 200
_PATIENCE_SECONDS = 600.0

Patience = Annotated[
    float | None,
    typer.Option(parser=seconds_of, metavar="TIME", help="How long the service may be away at a time; 10m."),
]


def register(parent: typer.Typer) -> None:
    """Add the group to the command."""
    parent.add_typer(app, name="ci", rich_help_panel="Jobs")


@app.command()
def run(
    path: Annotated[Path, typer.Argument(metavar="JOB.yaml", exists=True, dir_okay=False, help="See `ci schema`.")],
    *,
    key: Annotated[
        str | None,
        typer.Option(help="The same key attaches to the same job. Without it: commit, job file and data decide."),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Make another job whatever there is.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check file and data, show the plan, make nothing.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(parser=seconds_of, metavar="TIME", help="Stop waiting after 90s, 15m or 4h; the job goes on."),
    ] = None,
    patience: Patience = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add a summary in Markdown; $GITHUB_STEP_SUMMARY by default.")
    ] = None,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Ctrl-C and SIGTERM cancel the job instead of leaving it.")
    ] = False,
) -> None:
    """Train what a job file asks for, wait for the end, and judge it. A step that runs again attaches to its job."""
    from tunesmith.cli.ci.pipeline import Pipeline

    if key is not None and not 1 <= len(key) <= _LONGEST_KEY:
        raise typer.BadParameter(f"A key has 1 to {_LONGEST_KEY} characters.", param_hint="--key")
    pipeline = Pipeline.of(os.environ)

    def terms_of(loaded: "Loaded") -> "Terms":
        from tunesmith.cli.ci.pipeline import key_of
        from tunesmith.cli.ci.run import Terms

        return Terms(
            key=key or key_of(loaded, pipeline),
            is_new=new,
            timeout_seconds=timeout,
            patience_seconds=_PATIENCE_SECONDS if patience is None else patience,
            cancels_on_interrupt=cancel_on_interrupt,
        )

    ending = _ending(path, terms_of, is_dry=dry_run)
    is_reported = _report(ending, pipeline, junit=junit, summary=summary or pipeline.summary)
    raise typer.Exit(int(ending.code) or int(not is_reported))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file, for editors."""
    from tunesmith.cli.ci.job_file import schema as job_file_schema

    output.as_json(job_file_schema())


def _ending(path: Path, terms_of: "Callable[[Loaded], Terms]", *, is_dry: bool) -> "Ending":
    """Check, then train; whatever refuses it is an ending too, so that it is reported like any other."""
    from tunesmith.cli.ci.data_check import DataRefused, check_data
    from tunesmith.cli.ci.ending import Ending
    from tunesmith.cli.ci.job_file import JobFileRefused, load
    from tunesmith.cli.exit_codes import ExitCode, for_error
    from tunesmith.tuning.errors import TunesmithError
    from tunesmith.tuning.values.units import plural

    try:
        loaded = load(path)
        checked = check_data(loaded)
        return _dry(loaded, checked) if is_dry else _train(loaded, terms_of(loaded))
    except JobFileRefused as refused:
        headline = f"{path} has {plural(len(refused.problems), 'problem')}."
        return Ending(ExitCode.REJECTED, headline, problems=refused.problems, refused="job file")
    except DataRefused as refused:
        headline = f"{plural(len(refused.problems), 'row')} cannot be trained on."
        hints = ["Correct these lines, or leave them out."]
        return Ending(ExitCode.REJECTED, headline, problems=refused.problems, refused="data", hints=hints)
    except TunesmithError as error:
        field = f" ({error.param})" if error.param else ""
        hints = [error.hint] if error.hint and error.hint not in error.message else []
        return Ending(for_error(error), f"{error.message}{field}", refused="submission", hints=hints)


def _train(loaded: "Loaded", terms: "Terms") -> "Ending":
    from tunesmith.cli.ci.ending import Ending
    from tunesmith.cli.ci.run import Run
    from tunesmith.cli.client import Client
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.rendering.live_view import PlainView

    with Client() as client, _sigterm_interrupts():
        run = Run(client, loaded, terms, view=PlainView(), clock=time.monotonic, sleep=time.sleep)
        try:
            job = run.submit_or_attach()
        except KeyboardInterrupt:
            hints = ["attach with the same command, if there is a job already"]
            headline = "Interrupted before the service had answered."
            return Ending(ExitCode.INTERRUPTED, headline, refused="submission", hints=hints)
        output.data(job.id)
        return run.wait(job)


def _dry(loaded: "Loaded", checked: "dict[str, CheckedFile]") -> "Ending":
    """The plan for the rows as they were counted here; nothing is sent but the counts."""
    from tunesmith.cli.ci.ending import Ending
    from tunesmith.cli.client import Client
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.rendering.fleet_plan import describe_rows, show

    body = loaded.body
    for name in ("validation_file", "metadata"):
        body.pop(name, None)
    if (file := checked.get("training_file")) is not None:
        output.note(describe_rows(file.path.name, file.report))
        counts = file.report.facts().model_dump(exclude={"tokens_are_exact"})
        body = {**body, "tunesmith": {**(body.get("tunesmith") or {}), "dataset": counts}}
        del body["training_file"]
    with Client() as client:
        answer = client.plan(body)
    show(answer, price=None, why=False)
    fits = any(entry.fits for entry in answer.data)
    return Ending(
        ExitCode.SUCCEEDED if fits else ExitCode.REJECTED,
        "The job file and the data are good, and a worker fits." if fits else "No worker that is there fits the job.",
        refused=None if fits else "submission",
    )


def _report(ending: "Ending", pipeline: "Pipeline", *, junit: Path | None, summary: Path | None) -> bool:
    """Tell everybody who listens; whether every file could be written. One that cannot keeps no other from it."""
    from tunesmith.cli.ci.github import annotations, append_outputs
    from tunesmith.cli.ci.junit import write_junit
    from tunesmith.cli.ci.summary import append_summary

    for problem in ending.problems:
        output.note(str(problem))
    output.note(ending.headline if ending.code == 0 else f"error: {ending.headline}")
    for hint in ending.hints:
        output.note(f"  hint: {hint}")
    if pipeline.is_github:
        for line in annotations(ending):
            output.data(line)
    files = ((junit, write_junit), (summary, append_summary), (pipeline.outputs, append_outputs))
    written = [_is_written(path, write, ending) for path, write in files if path is not None]
    return all(written)


def _is_written(path: Path, write: "Callable[[Path, Ending], None]", ending: "Ending") -> bool:
    try:
        write(path, ending)
    except OSError as error:
        output.note(f"error: {path} cannot be written: {error.strerror or error}")
        return False
    return True


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """A pipeline that is cancelled sends SIGTERM, which means what Ctrl-C means."""
    usual = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt
