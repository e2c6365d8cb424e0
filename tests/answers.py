"""Answers of the service as the command meets them, complete, so that a test names only what it is about."""

from typing import Any, Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.comparisons.evaluations import EvaluationObject
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.api.jobs import (
    JobHyperparameters,
    JobMethod,
    JobObject,
    JobProgress,
    JobsAhead,
    JobWaiting,
    SupervisedJobMethod,
    TunesmithJob,
)
from tunesmith.tuning.state import JobState

Json = dict[str, Any]

_HYPERPARAMETERS = JobHyperparameters(n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto")


def job(
    job_id: str = "ftjob-1", *, status: str = "queued", phase: str | None = None, place: int | None = None
) -> JobObject:
    """A job that has not met a worker yet, whatever its status says."""
    ours = TunesmithJob(
        phase=phase,
        waiting_reason=None,
        queue_position=place,
        method="auto",
        goal="balanced",
        plan=None,
        measured=None,
        attempts=0,
        progress=JobProgress(step=None, total_steps=None, eta_seconds=None),
        cancel_requested=False,
        pause_requested=False,
        priority=0,
        reproduces=None,
        version=1,
        dataset={"rows": 20},
        result=None,
        failure=None,
    )
    return JobObject(
        id=job_id,
        created_at=1_800_000_000,
        finished_at=None,
        estimated_finish=None,
        status=JobState(status),
        model="tiny-llama",
        fine_tuned_model=None,
        training_file="file-1",
        validation_file=None,
        result_files=[],
        hyperparameters=_HYPERPARAMETERS,
        method=JobMethod(type="supervised", supervised=SupervisedJobMethod(hyperparameters=_HYPERPARAMETERS)),
        trained_tokens=None,
        error=None,
        seed=7,
        organization_id="acme",
        integrations=[],
        metadata=None,
        tunesmith=ours,
    )


def waiting(job_id: str, *, place: int | None, own: int, others: int, starts_at: int | None) -> JobWaiting:
    """A job in line behind so many of its own project and of others."""
    return JobWaiting(
        job_id=job_id,
        status="queued",
        queue_position=place,
        reason="Every worker is busy.",
        ahead=JobsAhead(own_project=own, other_projects=others),
        expected_start=starts_at,
        workers=[],
        smallest_hardware=None,
    )


def evaluation(evaluation_id: str = "eval-1", *, against: str | None = None) -> EvaluationObject:
    """An evaluation that has found nothing yet."""
    return EvaluationObject(
        id=evaluation_id,
        created_at=1_800_000_000,
        finished_at=None,
        status=JobState.RUNNING,
        model="ft:tiny-llama:acme::1",
        against=against,
        file="file-1",
        rows=20,
        score={"type": "exact"},
        gate={},
        measures=None,
        against_measures=None,
        seen_rows=[],
        verdict=None,
        error=None,
        metadata=None,
        phase="evaluating",
        progress=JobProgress(step=None, total_steps=None, eta_seconds=None),
        waiting_reason=None,
        cancel_requested=False,
        attempts=1,
    )


def event(
    event_id: str, *, message: str = "Something happened", level: Literal["info", "warn", "error"] = "info"
) -> EventObject:
    """A line of a job's history."""
    return EventObject(id=event_id, created_at=1_800_000_000, level=level, message=message, type="message", data=None)


def body(answer: Answer) -> Json:
    """What the service sends for it."""
    return answer.model_dump(mode="json")
