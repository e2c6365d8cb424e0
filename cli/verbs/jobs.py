"""Verbs about jobs that exist: ls, get, cancel, pause, resume."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli import output
from tunesmith.cli.verbs.options import JobName, Listed, ListFormat
from tunesmith.tuning.state import JobState

if TYPE_CHECKING:
    from tunesmith.cli.client import Client
    from tunesmith.tuning.api.jobs import JobObject

_PANEL = "Jobs"
_WITH_PROGRESS = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (ls, get, cancel, pause, resume):
        app.command(rich_help_panel=_PANEL)(verb)


def ls(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, newest first.")] = 20,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    form: Listed = ListFormat.TABLE,
) -> None:
    """List jobs, newest first."""
    from tunesmith.cli.client import Client

    with Client() as client:
        jobs = _newest(client, limit=limit, state=state)
    if form is ListFormat.JSON:
        output.as_json(jobs)
        return
    output.table(("ID", "STATE", "MODEL", "METHOD", "PROGRESS", "CREATED", "RESULT"), [_row(job) for job in jobs])


def get(
    job: JobName,
    form: Listed = ListFormat.TABLE,
) -> None:
    """Show one job with its plan and the reasons for it."""
    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id, is_evaluation
    from tunesmith.cli.rendering.job_text import describe

    with Client() as client:
        job_id = find_job_id(client, job)
        if is_evaluation(job_id):
            _show_evaluation(client, job_id, form=form)
            return
        found = client.job(job_id)
        if form is ListFormat.JSON:
            output.as_json(found)
            return
        waiting = client.waiting(found.id) if found.status == JobState.QUEUED else None
        tracked_at = [run.url for run in client.tracked_runs(found.id)]
    for line in describe(found, waiting=waiting, now=time.time(), tracked_at=tracked_at):
        output.data(line)


def cancel(job: JobName) -> None:
    """Cancel a job; a running one keeps its last checkpoint."""
    _act(job, "cancel")


def pause(job: JobName) -> None:
    """Pause a job at its next checkpoint."""
    _act(job, "pause")


def resume(job: JobName) -> None:
    """Put a paused job back in the queue; it goes on from its last checkpoint."""
    _act(job, "resume")


def _show_evaluation(client: "Client", evaluation_id: str, *, form: ListFormat) -> None:
    from tunesmith.cli.rendering.evaluation_text import describe

    found = client.evaluation(evaluation_id)
    if form is ListFormat.JSON:
        output.as_json(found)
        return
    output.data(f"{found.id}  {output.state(found.status).rstrip()}  {found.phase or ''}".rstrip())
    for line in describe(found, ()):
        output.data(line)


def _newest(client: "Client", *, limit: int, state: JobState | None) -> "list[JobObject]":
    found: list[JobObject] = []
    after: str | None = None
    while len(found) < limit:
        page = client.list_jobs(limit=100 if state else min(limit - len(found), 100), after=after)
        found += [job for job in page.data if state in (None, job.status)]
        if not page.has_more or not page.data:
            break
        after = page.data[-1].id
    return found[:limit]


def _row(job: "JobObject") -> tuple[object, ...]:
    progress = job.tunesmith.progress
    is_unfinished = job.status in _WITH_PROGRESS and progress.total_steps
    steps = f"{progress.step or 0}/{progress.total_steps}" if is_unfinished else None
    result = job.fine_tuned_model or (job.error.code if job.error else None)
    return (job.id, job.status, job.model, job.tunesmith.method, steps, output.moment(job.created_at), result)


def _act(named: str, action: str) -> None:
    from tunesmith.cli.client import Client
    from tunesmith.cli.job_names import find_job_id

    with Client() as client:
        job = client.act_on_job(find_job_id(client, named), action)
    output.data(f"{job.id}  {job.status}")
    if action != "resume" and job.status == JobState.RUNNING:
        output.note(f"it stops at the next step; see it happen with: tunesmith watch {job.id}")
