"""A job as the API shows it, everything of ours under `tunesmith`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tunesmith.service.checkpoints.weights import weights_of
from tunesmith.service.database.tables import Attempt, Checkpoint, Job
from tunesmith.service.jobs.store import JobRow
from tunesmith.service.models.names import checkpoint_name, fine_tuned_name
from tunesmith.service.queue.surroundings import Standing
from tunesmith.tuning.api.history import AttemptObject, CheckpointObject, TunesmithCheckpoint
from tunesmith.tuning.api.jobs import (
    DpoJobHyperparameters,
    DpoJobMethod,
    JobError,
    JobFailureDetails,
    JobHyperparameters,
    JobIntegration,
    JobMeasurements,
    JobMethod,
    JobObject,
    JobProgress,
    SupervisedJobMethod,
    TunesmithJob,
)
from tunesmith.tuning.estimates.measured import measurement_of
from tunesmith.tuning.state import JobState


def job_object(job: JobRow, *, standing: Standing | None) -> JobObject:
    """The API's FineTuningJob. Numbers that were left to us are shown once a plan has chosen them."""
    hyperparameters = _hyperparameters(job)
    beta = hyperparameters.pop("beta")
    shared = JobHyperparameters(**hyperparameters)
    return JobObject(
        id=job.id,
        created_at=_seconds(job.created_at),
        finished_at=_seconds_or_none(job.finished_at),
        estimated_finish=_seconds_or_none(job.estimated_finish_at) if job.state == JobState.RUNNING else None,
        status=JobState(job.state),
        model=job.spec["model"],
        fine_tuned_model=job.fine_tuned_model,
        training_file=job.training_file,
        validation_file=job.validation_file,
        result_files=job.result_files,
        hyperparameters=shared,
        method=_method(job, shared, beta=beta),
        trained_tokens=job.trained_tokens,
        error=_error(job),
        seed=job.spec["seed"],
        organization_id=job.project,
        integrations=[JobIntegration.model_validate(one) for one in job.spec.get("integrations", ())],
        metadata=job.labels,
        tunesmith=_ours(job, standing=standing),
    )


def attempt_object(attempt: Attempt) -> AttemptObject:
    """One try, with its plan and how it ended."""
    return AttemptObject(
        id=attempt.id,
        epoch=attempt.epoch,
        worker_id=attempt.worker_id,
        worker_class=attempt.worker_class,
        phase=attempt.phase,
        step=attempt.step,
        plan=attempt.plan,
        started_at=_seconds(attempt.started_at),
        ended_at=_seconds_or_none(attempt.ended_at),
        outcome=attempt.outcome,
        failure=attempt.failure,
        canary=attempt.canary,
        result=attempt.result,
    )


def checkpoint_object(job: Job, checkpoint: Checkpoint) -> CheckpointObject:
    """The API's checkpoint."""
    ours = TunesmithCheckpoint(
        attempt_id=checkpoint.attempt_id,
        manifest_sha256=checkpoint.manifest_sha256,
        files=[file.model_dump() for file in weights_of(checkpoint)],
    )
    return CheckpointObject(
        id=checkpoint.id,
        created_at=_seconds(checkpoint.created_at),
        fine_tuning_job_id=job.id,
        fine_tuned_model_checkpoint=checkpoint_name(model_name(job), step=checkpoint.step),
        step_number=checkpoint.step,
        metrics={"step": checkpoint.step, **checkpoint.metrics},
        tunesmith=ours,
    )


def model_name(job: Job) -> str:
    """The name that the job's result has, or will have."""
    base = job.spec["model"]
    root = base.split(":")[1] if base.startswith("ft:") else base
    return fine_tuned_name(base=root, project=job.project, suffix=job.suffix, job_id=job.id)


def _ours(job: JobRow, *, standing: Standing | None) -> TunesmithJob:
    spec = job.spec
    return TunesmithJob(
        phase=job.phase,
        waiting_reason=job.waiting_reason or (standing.waits_for if standing else None),
        queue_position=standing.place if standing else None,
        method=job.plan["method"] if job.plan else spec["method"],
        goal=spec["goal"],
        plan=job.plan,
        measured=_measured(job),
        attempts=job.epoch,
        attempts_failed=job.attempts_used - (job.state in (JobState.RUNNING, JobState.SUCCEEDED)),
        max_attempts=job.max_attempts,
        attempts_lost=job.attempts_lost,
        attempts_preempted=job.attempts_preempted,
        progress=JobProgress(step=job.step, total_steps=job.total_steps, eta_seconds=job.eta_seconds),
        cancel_requested=job.cancel_requested_at is not None,
        pause_requested=job.pause_requested_at is not None,
        deadline=_seconds_or_none(job.deadline_at),
        priority=job.priority,
        reproduces=job.reproduces,
        version=job.version,
        dataset=job.dataset,
        result=job.result,
        failure=_failure(job),
    )


def _measured(job: JobRow) -> JobMeasurements | None:
    """What the run measured, and what of the plan's peak it could see: a GPU's context is not in a trainer's view."""
    if job.plan is None or job.result is None:
        return None
    run = measurement_of(job.plan, job.result)
    return JobMeasurements(
        peak_memory_bytes=run.peak_memory_bytes,
        predicted_peak_memory_bytes=run.predicted_peak_bytes,
        tokens_per_second=run.tokens_per_second,
        training_seconds=run.training_seconds,
        evaluation_seconds=run.evaluation_seconds,
        mfu=_number(job.result, "mfu"),
        checkpoint_stall_seconds=_number(job.result, "checkpoint_stall_seconds"),
    )


def _number(report: Mapping[str, Any], name: str) -> float | None:
    """What a trainer reported under this name, unless it is no number."""
    value = report.get(name)
    return value if isinstance(value, float | int) else None


def _error(job: JobRow) -> JobError | None:
    if job.failure is None:
        return None
    return JobError(**{key: job.failure[key] for key in ("code", "message", "param")})


def _failure(job: JobRow) -> JobFailureDetails | None:
    if job.failure is None:
        return None
    return JobFailureDetails(**{key: job.failure.get(key) for key in JobFailureDetails.model_fields})


def _method(job: JobRow, shared: JobHyperparameters, *, beta: Any) -> JobMethod:
    if job.spec["objective"] == "dpo":
        return JobMethod(type="dpo", dpo=DpoJobMethod(hyperparameters=DpoJobHyperparameters(**dict(shared), beta=beta)))
    return JobMethod(type="supervised", supervised=SupervisedJobMethod(hyperparameters=shared))


def _hyperparameters(job: JobRow) -> dict[str, Any]:
    asked = dict(job.spec["hyperparameters"])
    if asked.get("early_stopping_patience") == "auto":
        del asked["early_stopping_patience"]  # ours, and not asked for: the API's object has no such field
    if job.plan is None:
        return asked
    chosen = {"n_epochs": job.plan["epochs"], "batch_size": job.plan["rows_per_step"], "beta": job.plan["beta"]}
    chosen["learning_rate_multiplier"] = 1.0  # what "auto" means: the plan's own learning rate, unscaled
    return {key: chosen.get(key) if value == "auto" else value for key, value in asked.items()}


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _seconds_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _seconds(moment)
