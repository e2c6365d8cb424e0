"""An evaluation as the API shows it."""

from datetime import datetime

from tunesmith.service.database.tables import Job
from tunesmith.service.evaluations.results import verdict_of
from tunesmith.service.queue.surroundings import Standing
from tunesmith.tuning.api.comparisons.evaluations import EvaluatedRowObject, EvaluationError, EvaluationObject
from tunesmith.tuning.api.jobs import JobProgress
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.json_objects import Json


def evaluation_object(job: Job, *, standing: Standing | None = None) -> EvaluationObject:
    """A job of kind evaluation, with what came of it. Without its standing in line it changes only as its row does."""
    asked = job.spec["evaluation"]
    found = (job.result or {}).get("evaluation", {})
    verdict = verdict_of(job)
    return EvaluationObject(
        id=job.id,
        created_at=_seconds(job.created_at),
        finished_at=None if job.finished_at is None else _seconds(job.finished_at),
        status=JobState(job.state),
        model=asked["model"],
        against=asked["against"],
        file=job.training_file,
        rows=job.dataset["rows"],
        score=asked["score"],
        gate=asked["rule"],
        measures=found.get("model"),
        against_measures=found.get("against"),
        seen_rows=asked.get("seen", []),
        verdict=None if verdict is None else verdict.model_dump(mode="json"),
        error=_error(job),
        metadata=job.labels,
        phase=job.phase,
        progress=JobProgress(step=job.step, total_steps=job.total_steps, eta_seconds=job.eta_seconds),
        waiting_reason=job.waiting_reason or (standing.waits_for if standing else None),
        cancel_requested=job.cancel_requested_at is not None,
        attempts=job.epoch,
    )


def row_object(row: Json) -> EvaluatedRowObject:
    """One row with both models' losses and answers."""
    return EvaluatedRowObject(id=str(row["line"]), **row)


def _error(job: Job) -> EvaluationError | None:
    if job.failure is None:
        return None
    return EvaluationError(**{key: job.failure.get(key) for key in EvaluationError.model_fields})


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
