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
    from tunesmith.cli.job_names import find_job_id
    from tunesmith.cli.rendering.job_text import describe

    with Client() as client:
        found = client.job(find_job_id(client, job))
        if form is ListFormat.JSON:
            output.as_json(found)
            return
        waiting = client.waiting(found.id) if found.status == JobState.QUEUED else None
        tracked_at = _tracked_at(client, found.id)
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


def _tracked_at(client: "Client", job_id: str) -> list[str]:
    """Where trackers show the job's runs, each address once."""
    told = (event.data or {} for event in client.events_since(job_id))
    return list(dict.fromkeys(str(data["url"]) for data in told if data.get("tracker") and data.get("url")))


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
