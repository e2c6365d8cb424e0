"""A job as the API shows it, everything of ours under `tunesmith`."""

from datetime import datetime
from typing import Any

from tunesmith.service.database.tables import Attempt, Checkpoint, Job
from tunesmith.service.models.names import checkpoint_name, fine_tuned_name
from tunesmith.tuning.estimates.measured import measurement_of
from tunesmith.tuning.state import JobState


def job_object(job: Job, *, queue_position: int | None) -> dict[str, Any]:
    """The API's FineTuningJob. Numbers that were left to us are shown once a plan has chosen them."""
    hyperparameters = _hyperparameters(job)
    objective = job.spec["objective"]
    return {
        "object": "fine_tuning.job",
        "id": job.id,
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(job.finished_at),
        "estimated_finish": _seconds(job.estimated_finish_at) if job.state == JobState.RUNNING else None,
        "status": job.state,
        "model": job.spec["model"],
        "fine_tuned_model": job.fine_tuned_model,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": job.result_files,
        "hyperparameters": {key: value for key, value in hyperparameters.items() if key != "beta"},
        "method": {"type": objective, objective: {"hyperparameters": hyperparameters}},
        "trained_tokens": job.trained_tokens,
        "error": _error(job),
        "seed": job.spec["seed"],
        "organization_id": job.project,
        "integrations": [],
        "metadata": job.labels,
        "tunesmith": _ours(job, queue_position=queue_position),
    }


def attempt_object(attempt: Attempt) -> dict[str, Any]:
    """One try, with its plan and how it ended."""
    return {
        "id": attempt.id,
        "object": "tunesmith.attempt",
        "epoch": attempt.epoch,
        "worker_id": attempt.worker_id,
        "worker_class": attempt.worker_class,
        "phase": attempt.phase,
        "step": attempt.step,
        "plan": attempt.plan,
        "started_at": _seconds(attempt.started_at),
        "ended_at": _seconds(attempt.ended_at),
        "outcome": attempt.outcome,
        "failure": attempt.failure,
        "canary": attempt.canary,
        "result": attempt.result,
    }


def checkpoint_object(job: Job, checkpoint: Checkpoint) -> dict[str, Any]:
    """The API's checkpoint."""
    name = model_name(job)
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": checkpoint.id,
        "created_at": _seconds(checkpoint.created_at),
        "fine_tuning_job_id": job.id,
        "fine_tuned_model_checkpoint": checkpoint_name(name, step=checkpoint.step),
        "step_number": checkpoint.step,
        "metrics": {"step": checkpoint.step, **checkpoint.metrics},
        "tunesmith": {"attempt_id": checkpoint.attempt_id, "manifest_sha256": checkpoint.manifest_sha256},
    }


def model_name(job: Job) -> str:
    """The name that the job's result has, or will have."""
    base = job.spec["model"]
    root = base.split(":")[1] if base.startswith("ft:") else base
    return fine_tuned_name(base=root, project=job.project, suffix=job.suffix, job_id=job.id)


def _ours(job: Job, *, queue_position: int | None) -> dict[str, Any]:
    spec = job.spec
    return {
        "phase": job.phase,
        "waiting_reason": job.waiting_reason,
        "queue_position": queue_position,
        "method": job.plan["method"] if job.plan else spec["method"],
        "goal": spec["goal"],
        "plan": job.plan,
        "measured": _measured(job),
        "attempts": job.epoch,
        "progress": {"step": job.step, "total_steps": job.total_steps, "eta_seconds": job.eta_seconds},
        "cancel_requested": job.cancel_requested_at is not None,
        "pause_requested": job.pause_requested_at is not None,
        "priority": job.priority,
        "reproduces": job.reproduces,
        "version": job.version,
        "dataset": job.dataset,
        "result": job.result,
        "failure": _failure(job),
    }


def _measured(job: Job) -> dict[str, Any] | None:
    """What the run measured, and what of the plan's peak it could see: a GPU's context is not in a trainer's view."""
    if job.plan is None or job.result is None:
        return None
    run = measurement_of(job.plan, job.result)
    return {
        "peak_memory_bytes": run.peak_memory_bytes,
        "predicted_peak_memory_bytes": run.predicted_peak_bytes,
        "tokens_per_second": run.tokens_per_second,
        "training_seconds": run.training_seconds,
        "evaluation_seconds": run.evaluation_seconds,
        "mfu": job.result.get("mfu"),
        "checkpoint_stall_seconds": job.result.get("checkpoint_stall_seconds"),
    }


def _error(job: Job) -> dict[str, Any] | None:
    if job.failure is None:
        return None
    return {key: job.failure[key] for key in ("code", "message", "param")}


def _failure(job: Job) -> dict[str, Any] | None:
    if job.failure is None:
        return None
    return {key: job.failure[key] for key in ("category", "retryable", "hint", "log_tail")}


def _hyperparameters(job: Job) -> dict[str, Any]:
    asked = dict(job.spec["hyperparameters"])
    if asked.get("early_stopping_patience") == "auto":
        del asked["early_stopping_patience"]  # ours, and not asked for: the API's object has no such field
    if job.spec["objective"] != "dpo":
        del asked["beta"]
    if job.plan is None:
        return asked
    chosen = {"n_epochs": job.plan["epochs"], "batch_size": job.plan["rows_per_step"], "beta": job.plan["beta"]}
    chosen["learning_rate_multiplier"] = 1.0  # what "auto" means: the plan's own learning rate, unscaled
    return {key: chosen.get(key) if value == "auto" else value for key, value in asked.items()}


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
