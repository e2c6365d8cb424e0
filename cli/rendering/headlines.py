"""The line that says where a job is, and what explains it: its place in line, what it does, or what came of it."""

from typing import TYPE_CHECKING

from tunesmith.cli import output
from tunesmith.tuning.api.jobs import JobObject, JobWaiting, TunesmithJob
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.units import plural

if TYPE_CHECKING:
    from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject

_SOON_SECONDS = 1.0


def headline_of(
    job: JobObject, *, waiting: JobWaiting | None = None, evaluation: "EvaluationObject | None" = None
) -> str:
    """State and explanation, without times that pass. Why it failed is told at the end.

    `waiting` is about a job in line; `evaluation` is what a job measures that trains nothing.
    """
    detail = {
        JobState.QUEUED: _queue_text(job.tunesmith, waiting),
        JobState.RUNNING: _plan_text(job.tunesmith) if evaluation is None else _measuring_text(job, evaluation),
        JobState.PAUSED: f"tunesmith resume {job.id}",
        JobState.SUCCEEDED: job.fine_tuned_model or "",
    }.get(job.status, "")
    return f"{output.state(job.status)}  {detail}".rstrip()


def place_in_line(waiting: JobWaiting) -> list[str]:
    """`number 3 in line`, `2 jobs ahead, 1 of other projects`, as far as they are known."""
    parts = [f"number {waiting.queue_position} in line"] if waiting.queue_position else []
    if waiting.ahead is not None and (jobs := waiting.ahead.own_project + waiting.ahead.other_projects):
        others = waiting.ahead.other_projects
        parts.append(f"{plural(jobs, 'job')} ahead" + (f", {others} of other projects" if others else ""))
    return parts


def start_text(waiting: JobWaiting, *, now: float) -> str | None:
    """`starts in about 12m 05s`, `starts now`; None where that cannot be told. `now` in Unix seconds."""
    if waiting.expected_start is None:
        return None
    seconds = waiting.expected_start - now
    return f"starts in about {output.duration(seconds)}" if seconds > _SOON_SECONDS else "starts now"


def _queue_text(ours: TunesmithJob, waiting: JobWaiting | None) -> str:
    if waiting is not None and (parts := place_in_line(waiting)):
        why = ours.waiting_reason if waiting.expected_start is None else None
        return ", ".join([*parts, *([why] if why else [])])
    parts = [f"number {ours.queue_position} in line" if ours.queue_position else "", ours.waiting_reason or ""]
    return ", ".join(part for part in parts if part)


def _plan_text(ours: TunesmithJob) -> str:
    plan = ours.plan or {}
    parts = [ours.method]
    if rank := (plan.get("lora") or {}).get("rank"):
        parts.append(f"rank {rank}")
    if steps := plan.get("total_steps"):
        parts.append(plural(steps, "step"))
    if seconds := (plan.get("time") or {}).get("seconds"):
        parts.append(f"about {output.duration(seconds)} of training")
    return ", ".join(parts)


def _measuring_text(job: JobObject, evaluation: "EvaluationObject") -> str:
    """What is measured on how many rows; nothing is trained."""
    rows = plural(int(job.tunesmith.dataset.get("rows") or evaluation.rows), "row")
    other = "" if evaluation.against is None else f" and under {evaluation.against}"
    measured = "losses" if evaluation.score is None else f"losses and answers ({evaluation.score['type']})"
    return f"measures {measured} on {rows} under {evaluation.model}{other}"
