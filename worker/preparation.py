"""Everything between a claim and a trainer: disk, model, data, checkpoint, and the last word on the plan."""

import json
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from tuning.errors import Category, Failure, InvalidRequest, JobFailure
from tuning.hardware import HardwareProfile
from tuning.messages import Claim, EventReport, PhaseReport
from tuning.pinned import is_same_training, replay
from tuning.plan import Plan, Refusal
from tuning.planner import choose
from tuning.shape import ModelShape
from tuning.state import Phase
from worker.checkpoints import find_resumable
from worker.control import AttemptControl
from worker.disk import require_space
from worker.launcher import LIFELINE_FD
from worker.models import ModelCache
from worker.rundir import RunDirectory, TrainRequest
from worker.workdir import WorkDirectory


@dataclass(frozen=True)
class Prepared:
    """A run directory that is ready to be launched."""

    run: RunDirectory
    request: TrainRequest


def prepare(
    claim: Claim,
    *,
    hardware: HardwareProfile,
    work: WorkDirectory,
    control: AttemptControl,
    log: FilteringBoundLogger,
) -> Prepared:
    """Fetch and verify all inputs and write the run directory. `control` stops the waiting when the attempt is halted.

    Raises:
        JobFailure: the disk is too small, or nothing fits this hardware any more.
        LeaseLost, Unavailable, and what the control's check raises.
    """
    control.phase(PhaseReport(phase=Phase.PREPARING))
    cache = ModelCache(work.models)
    require_space(claim, cache=cache, folder=work.runs)
    model_dir, adapter_dir = _fetch_model(claim, cache, control)
    plan = _final_plan(claim, model_dir, hardware, control)
    run = RunDirectory(work.run_root(job_id=claim.job_id, attempt_id=claim.attempt_id))
    earlier = [root for root in work.run_roots(job_id=claim.job_id) if root != run.root]
    resume_from = find_resumable(claim.resume, earlier_runs=earlier, target=run.root / "resume", control=control)
    log.info("attempt.prepared", method=plan.method.value, resume_from=resume_from.name if resume_from else None)
    request = TrainRequest(
        job_id=claim.job_id,
        attempt_id=claim.attempt_id,
        spec=claim.spec,
        plan=plan,
        dataset=claim.dataset,
        model_dir=str(model_dir),
        adapter_dir=str(adapter_dir) if adapter_dir else None,
        resume_from=str(resume_from) if resume_from else None,
        lifeline_fd=LIFELINE_FD,
        **_fetch_data(claim, run.root / "data", control),
    )
    run.create(request)
    return Prepared(run=run, request=request)


def _fetch_model(claim: Claim, cache: ModelCache, control: AttemptControl) -> tuple[Path, Path | None]:
    """The folder of the base model, and that of the adapter to continue from."""
    base = claim.base_model
    if base.adapter_of is None:
        return cache.fetch(base.files, control), None
    return cache.fetch(base.base_files, control), cache.fetch(base.files, control)


def _fetch_data(claim: Claim, folder: Path, control: AttemptControl) -> dict[str, str]:
    """Paths of the data under names of our own: names that users chose are never paths."""
    training, validation = folder / "training.jsonl", folder / "validation.jsonl"
    control.download(claim.training_file, training)
    if claim.validation_file is None:
        return {"training_file": str(training)}
    control.download(claim.validation_file, validation)
    return {"training_file": str(training), "validation_file": str(validation)}


def _final_plan(claim: Claim, model_dir: Path, hardware: HardwareProfile, control: AttemptControl) -> Plan:
    """Choose again with the memory that is free now. The service's plan stays unless a number to train by differs.

    A pinned plan is not chosen again: it runs as it stands, or not at all.
    """
    if claim.is_plan_pinned:
        decision = replay(claim.plan, hardware=hardware)
        if isinstance(decision, Refusal):
            raise JobFailure(_does_not_fit_now(decision))
        return decision
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    try:
        shape = ModelShape.from_config(config)
        decision = choose(
            spec=claim.spec,
            shape=shape,
            dataset=claim.dataset,
            hardware=hardware,
            corrections=claim.corrections,
        )
    except InvalidRequest as error:
        raise JobFailure(_unplannable(error)) from error
    if isinstance(decision, Refusal):
        raise JobFailure(_does_not_fit_now(decision))
    if is_same_training(decision, claim.plan):
        return claim.plan
    control.phase(PhaseReport(phase=Phase.PREPARING, plan=decision))
    message = "The plan changed because less or more memory is free on the worker than when the job was claimed."
    control.event(EventReport(message=message, data={"method": decision.method.value}))
    return decision


def _does_not_fit_now(refusal: Refusal) -> Failure:
    return Failure(
        code="does_not_fit_now",
        message=f"Nothing fits the memory that is free on the worker now. {refusal.text}",
        category=Category.TRANSIENT,
        retryable=True,
        hint="Other processes on the worker may hold memory; the job is tried again.",
    )


def _unplannable(error: InvalidRequest) -> Failure:
    return Failure(
        code=error.code, message=error.message, param=error.param, hint=error.hint, category=Category.USER_ERROR
    )
