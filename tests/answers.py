"""Answers of the service as the command meets them, complete, so that a test names only what it is about."""

from typing import Any, Literal

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.history import EventObject
from tunesmith.tuning.api.jobs import (
    JobHyperparameters,
    JobMethod,
    JobObject,
    JobProgress,
    SupervisedJobMethod,
    TunesmithJob,
)
from tunesmith.tuning.state import JobState

Json = dict[str, Any]

_HYPERPARAMETERS = JobHyperparameters(n_epochs="auto", batch_size="auto", learning_rate_multiplier="auto")


def job(job_id: str = "ftjob-1", *, status: str = "queued", phase: str | None = None) -> JobObject:
    """A job that has not met a worker yet, whatever its status says."""
    ours = TunesmithJob(
        phase=phase,
        waiting_reason=None,
        queue_position=None,
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


def event(
    event_id: str, *, message: str = "Something happened", level: Literal["info", "warn", "error"] = "info"
) -> EventObject:
    """A line of a job's history."""
    return EventObject(id=event_id, created_at=1_800_000_000, level=level, message=message, type="message", data=None)


def body(answer: Answer) -> Json:
    """What the service sends for it."""
    return answer.model_dump(mode="json")
