"""Verbs that show a job as it goes: watch, logs, events, samples. They exit with what became of the job."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import JobName, Listed, ListFormat, Timeout
from tunesmith.tuning.codes import RESULT_KINDS

if TYPE_CHECKING:
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.history import EventObject
    from tunesmith.tuning.api.jobs import JobObject, JobWaiting
    from tunesmith.tuning.api.metrics import MetricPoint

_PANEL = "Jobs"


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (watch, logs, events, samples):
        app.command(rich_help_panel=_PANEL)(verb)


def watch(job: JobName, timeout: Timeout = None) -> None:
    """Follow a job to its end; Ctrl-C leaves it running."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.exit_codes import ExitCode
    from tunesmith.cli.job_names import find_job_id, is_evaluation
    from tunesmith.cli.rendering.evaluation_text import describe

    with Client() as client:
        job_id = find_job_id(client, job)
        code = watch_to_the_end(client, job_id, timeout_seconds=timeout)
        if code == ExitCode.SUCCEEDED and is_evaluation(job_id):
            for line in describe(client.evaluation(job_id), ()):
                output.note(line)
    raise typer.Exit(code)


def logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    timeout: Timeout = None,
) -> None:
    """Print a job's history as log lines; with -f, as it happens."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.exit_codes import for_job
    from tunesmith.cli.job_names import find_job_id
    from tunesmith.cli.rendering.job_text import describe_failure

    with Client() as client:
        job_id = find_job_id(client, job)
        if follow:
            found = _follow_log(client, job_id, timeout_seconds=timeout)
        else:
            found = client.job(job_id)
            for event in client.events_since(job_id):
                output.data(log_line(event))
        if found.status == "failed":
            for line in describe_failure(found):
                output.data(line)
    if follow:
        raise typer.Exit(for_job(found.status))


def events(job: JobName, form: Listed = ListFormat.TABLE) -> None:
    """List every event of a job, oldest first."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id

    with Client() as client:
        found = client.events_since(find_job_id(client, job))
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    rows = [(output.moment(event.created_at), event.level, event.type, event.message) for event in found]
    output.table(("TIME", "LEVEL", "TYPE", "MESSAGE"), rows)


def samples(job: JobName, form: Listed = ListFormat.TABLE) -> None:
    """Show how the answers to a few held-out prompts change from step to step."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id
    from tunesmith.cli.rendering.job_text import describe_samples

    with Client() as client:
        found = client.samples(find_job_id(client, job))
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    if not found:
        output.note("no sample answers: they are taken at each evaluation of a job with a validation file")
    for line in describe_samples(found):
        output.data(line)


def watch_to_the_end(
    client: "Client", job_id: str, *, timeout_seconds: float | None = None, is_live: bool = True
) -> int:
    """Show a job until it ends and return the exit code. Ctrl-C detaches and says how to come back."""
    from tunesmith.cli.follow import follow
    from tunesmith.cli.job_names import is_evaluation
    from tunesmith.cli.rendering.live_view import PlainView, view_for_this_terminal

    try:
        evaluation = client.evaluation(job_id) if is_evaluation(job_id) else None
        if is_live:
            with view_for_this_terminal(evaluation=evaluation) as view:
                followed = follow(client, job_id, view=view, timeout_seconds=timeout_seconds)
        else:
            view = PlainView(evaluation=evaluation)
            followed = follow(client, job_id, view=view, timeout_seconds=timeout_seconds)
    except KeyboardInterrupt:
        raise typer.Exit(_detached(job_id)) from None
    if not followed.is_finished:
        return _timed_out(job_id)
    return _tell_the_end(client, followed.job)


def log_line(event: "EventObject") -> str:
    """`2026-05-04 10:11:12 warn   message`."""
    return f"{output.moment(event.created_at)} {event.level:<5} {event.message}"


def _follow_log(client: "Client", job_id: str, *, timeout_seconds: float | None) -> "JobObject":
    from tunesmith.cli.follow import follow

    try:
        followed = follow(client, job_id, view=_LogView(), timeout_seconds=timeout_seconds)
    except KeyboardInterrupt:
        raise typer.Exit(_detached(job_id)) from None
    if not followed.is_finished:
        raise typer.Exit(_timed_out(job_id))
    return followed.job


class _LogView:
    """Events as log lines on stdout; what concerns the connection on stderr."""

    def job(self, job: "JobObject") -> None:
        """The state is in the events already."""

    def waiting(self, waiting: "JobWaiting") -> None:
        """So is why it waits."""

    def event(self, event: "EventObject") -> None:
        output.data(log_line(event))

    def point(self, point: "MetricPoint") -> None:
        """Metrics have events of their own."""

    def line(self, text: str) -> None:
        output.note(text)

    def lost(self, reason: str) -> None:
        output.note(f"{reason} Waiting for it to come back; the job itself goes on.")

    def found(self) -> None:
        output.note("The service answers again.")


def _tell_the_end(client: "Client", job: "JobObject") -> int:
    from tunesmith.cli.exit_codes import for_job
    from tunesmith.cli.rendering.job_text import describe_failure

    if job.status == "succeeded":
        for line in _result_lines(client, job):
            output.note(line)
    elif job.status == "failed":
        for line in describe_failure(job):
            output.note(line)
    return int(for_job(job.status))


def _result_lines(client: "Client", job: "JobObject") -> list[str]:
    from tunesmith.cli.rendering.job_text import answer_that_changed, what_got_better

    took = output.duration((job.finished_at or time.time()) - job.created_at)
    better = what_got_better(job, client.metrics(job.id))
    lines = [f"{'':12}{'   '.join((*better[:1], f'{took} from submit to result'))}"]
    lines += [f"{'':12}{line}" for line in better[1:]]
    if better and (changed := answer_that_changed(client.samples(job.id))):
        lines.append(f"{'':12}{changed}")
    for artifact in client.artifacts(job.id):
        if artifact.kind in RESULT_KINDS:
            total_bytes = sum(file["bytes"] for file in artifact.files)
            pull = f"tunesmith artifacts pull {job.id}"
            lines.append(f"{'':12}{artifact.kind} {output.size(total_bytes)}: {pull}")
    return lines


def _detached(job_id: str) -> int:
    from tunesmith.cli.exit_codes import ExitCode

    output.note(f"\ndetached; {job_id} goes on")
    output.note(f"  watch it again   tunesmith watch {job_id}")
    output.note(f"  cancel it        tunesmith cancel {job_id}")
    return int(ExitCode.INTERRUPTED)


def _timed_out(job_id: str) -> int:
    from tunesmith.cli.exit_codes import ExitCode

    output.note(f"the time is up; {job_id} goes on: tunesmith watch {job_id}")
    return int(ExitCode.TIMED_OUT)
