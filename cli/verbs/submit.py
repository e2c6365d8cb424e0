"""The verb `submit`: show the plan first when asked to, upload what is not there yet, create one job, wait for it."""

import sys
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from tunesmith.cli import output
from tunesmith.cli.job_options.groups import with_groups
from tunesmith.cli.job_options.job import JobOptions
from tunesmith.cli.job_options.learning import LearningOptions
from tunesmith.cli.row_files import file_id, require_source
from tunesmith.cli.verbs.options import Format, Made, Timeout
from tunesmith.tuning.values.json_objects import Json

if TYPE_CHECKING:
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.jobs import JobObject


class _Wanted(NamedTuple):
    """A job to create: the request without its files, and the files by their paths or ids."""

    model: str
    asked: LearningOptions
    job: JobOptions
    training: str

    @property
    def body(self) -> Json:
        ours = self.asked.ours | self.job.ours
        return {"model": self.model, **self.job.fields, **self.asked.learning.fields, "tunesmith": ours}


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command(rich_help_panel="Jobs")(submit)


@with_groups(asked=LearningOptions, job=JobOptions)
def submit(
    *,
    training: Annotated[str, typer.Argument(metavar="FILE", help="A JSONL file, or the id of an uploaded one.")],
    model: Annotated[str, typer.Option(help="A base model, see `tunesmith models ls`, or OWNER/NAME of the hub.")],
    asked: LearningOptions,
    job: JobOptions,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would run, and ask before anything is sent.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask after --plan.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, one line per change.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for the end with a live view.")] = False,
    timeout: Timeout = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="With the same key again, this attaches to the job made the first time.")
    ] = None,
    form: Made = Format.TABLE,
) -> None:
    """Create a fine-tuning job from a JSONL file."""
    from tunesmith.cli.client import Client

    wanted = _Wanted(model, asked, job, training)
    _check(wanted, asks=plan and not yes)
    body = wanted.body
    with Client() as client:
        if plan:
            _show_plan(client, wanted)
            _ask(asks=not yes)
        made = _create(client, body, wanted, idempotency_key=idempotency_key)
        _announce(made, form=form, is_waiting=wait or follow)
        code = _wait(client, made, timeout=timeout, is_live=follow, form=form) if wait or follow else 0
    raise typer.Exit(code)


def _check(wanted: _Wanted, *, asks: bool) -> None:
    """Refuse what can be told here, before anything is counted or sent."""
    require_source(wanted.training, "FILE")
    if wanted.asked.validation_source is not None:
        require_source(wanted.asked.validation_source, "--validation")
    if wanted.asked.trains_on_all and wanted.asked.early_stopping_patience is not None:
        raise typer.BadParameter("It needs held-out rows to measure on.", param_hint="--early-stopping-patience")
    if asks and not sys.stdin.isatty():
        message = "There is no terminal to ask on. Add --yes to submit without asking, or use `tunesmith plan` to look."
        raise typer.BadParameter(message, param_hint="--plan")


def _show_plan(client: "Client", wanted: _Wanted) -> None:
    """The plan on stderr: stdout is for the job's id.

    Raises:
        typer.Exit: no live worker fits.
    """
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.rendering.fleet_plan import request_for, show

    more = wanted.job.ours
    answer = client.plan(request_for(wanted.training, model=wanted.model, numbers={}, asked=wanted.asked, more=more))
    show(answer, price=None, why=False, stream=sys.stderr)
    if not any(entry.fits for entry in answer.data):
        output.note("Nothing was submitted: no live worker fits the job.")
        raise typer.Exit(int(ExitCode.REJECTED))


def _ask(*, asks: bool) -> None:
    if asks and not output.confirms("\nSubmit this job?"):
        output.note("Nothing was submitted.")
        raise typer.Exit


def _create(client: "Client", body: Json, wanted: _Wanted, *, idempotency_key: str | None) -> "JobObject":
    import uuid

    from tunesmith.cli.models.fetch import create_job

    files = {"training_file": file_id(client, wanted.training)}
    if wanted.asked.validation_source is not None:
        files["validation_file"] = file_id(client, wanted.asked.validation_source)
    return create_job(client, {**body, **files}, idempotency_key=idempotency_key or uuid.uuid4().hex)


def _announce(job: "JobObject", *, form: Format, is_waiting: bool) -> None:
    if form is Format.JSON and not is_waiting:
        output.as_json(job)
    elif form is Format.JSON:
        output.note(job.id)
    else:
        output.data(job.id)
    if form is Format.TABLE and not is_waiting:
        output.note(f"{job.status}; follow it with: tunesmith watch {job.id}")


def _wait(client: "Client", job: "JobObject", *, timeout: float | None, is_live: bool, form: Format) -> int:
    from tunesmith.cli.verbs.watch import watch_to_the_end

    code = watch_to_the_end(client, job.id, timeout_seconds=timeout, is_live=is_live)
    if form is Format.JSON:
        output.as_json(client.job(job.id))
    return code
