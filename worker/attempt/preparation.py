"""Everything between a claim and a trainer: disk, model, data, checkpoint, and the last word on the plan."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from structlog.typing import FilteringBoundLogger

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.held_out import held_out_lines
from tunesmith.tuning.errors import Category, Failure, InvalidRequest, JobFailure
from tunesmith.tuning.evaluation import EvaluationSpec
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.messages import BaseModelRef, Claim, EventReport, FileRef, PhaseReport
from tunesmith.tuning.models.hub import loadable_name
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.planner.pinned import is_same_training, replay
from tunesmith.tuning.state import Phase
from tunesmith.worker.attempt.checkpoints import find_resumable
from tunesmith.worker.attempt.disk.room import require_space
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.attempt.token_cache import TokenStore
from tunesmith.worker.run_directory import OtherModel, RunDirectory, TrainRequest
from tunesmith.worker.trainer_process.launcher import LIFELINE_FD
from tunesmith.worker.transport.control import AttemptControl
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.work_directory import WorkDirectory


@dataclass(frozen=True)
class PreparedRun:
    """A run directory that is ready to be launched."""

    run: RunDirectory
    request: TrainRequest


def prepare(
    claim: Claim,
    *,
    hardware: HardwareProfile,
    work: WorkDirectory,
    tokens: TokenStore,
    cache: ModelCache,
    rehearsals: Rehearsals,
    control: AttemptControl,
    log: FilteringBoundLogger,
) -> PreparedRun:
    """Fetch and verify all inputs and write the run directory. `control` stops the waiting when the attempt is halted.

    Raises:
        JobFailure: the disk is too small, or nothing fits this hardware any more.
        LeaseLost, Unavailable, and what the control's check raises.
    """
    control.phase(PhaseReport(phase=Phase.PREPARING))
    require_space(claim, cache=cache, folder=work.runs)
    model_dir, adapter_dir = _fetch_model(claim.base_model, cache, control)
    against = _fetch_other(claim, cache, control)
    plan = _final_plan(claim, model_dir, hardware, control, against=against)
    run = RunDirectory(work.run_root(job_id=claim.job_id, attempt_id=claim.attempt_id))
    earlier = [root for root in work.run_roots(job_id=claim.job_id) if root != run.root]
    for root in earlier:  # an attempt whose worker was killed has left its tokens there
        with contextlib.suppress(OSError):
            tokens.adopt(RunDirectory(root).tokens, project=claim.project)
    token_cache = tokens.folder(claim.project)
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
        **_base_names(claim.base_model),
        against=against,
        resume_from=str(resume_from) if resume_from else None,
        measured_shape=claim.base_model.measured_shape,
        token_cache=str(token_cache) if token_cache else None,
        cut_long_rows=not _may_lengthen(claim, plan),
        constants=hardware.constants,
        lifeline_fd=LIFELINE_FD,
        seals={path: seal for files in _all_files(claim) for path, seal in cache.seals(files).items()},
        **_fetch_data(claim, run.root / "data", control),
    )
    return _created(run, request, rehearsals)


def prepare_longer(
    prepared: PreparedRun, *, claim: Claim, hardware: HardwareProfile, rehearsals: Rehearsals, control: AttemptControl
) -> PreparedRun:
    """The same run under a plan made from the exact lengths that the trainer counted, so that no row is cut.

    Where longer rows do not fit, the plan stays, and the trainer may cut.
    """
    request, run = prepared.request, prepared.run
    exact = run.read_dataset()
    update: dict[str, Any] = {"cut_long_rows": True, "dataset": exact}
    decision = _choose_all(claim, Path(request.model_dir), hardware, dataset=exact, against=request.against)
    planned = request.plan.max_sequence_length
    if isinstance(decision, Plan) and decision.max_sequence_length > planned:
        update["plan"] = decision
        control.phase(PhaseReport(phase=Phase.PREPARING, plan=decision))
        outcome = f"The plan now takes rows of up to {decision.max_sequence_length:,}."
    else:
        why = f" {decision.text}" if isinstance(decision, Refusal) else ""
        outcome = f"Longer rows do not fit here, so they are cut.{why}"
    message = f"The longest row has {exact.longest_row_tokens:,} tokens where {planned:,} were planned for. {outcome}"
    level: Literal["info", "warn"] = "info" if "plan" in update else "warn"
    control.event(EventReport(level=level, message=message[:2000]))
    run.result.unlink(missing_ok=True)
    return _created(run, request.model_copy(update=update), rehearsals)


def _created(run: RunDirectory, request: TrainRequest, rehearsals: Rehearsals) -> PreparedRun:
    final = request.model_copy(update={"rehearsal": rehearsals.find(request)})
    run.create(final)
    return PreparedRun(run=run, request=final)


def _fetch_model(named: BaseModelRef, cache: ModelCache, control: AttemptControl) -> tuple[Path, Path | None]:
    """The folder of the base model, and that of the adapter to continue from."""
    base, adapter = _model_files(named)
    return cache.fetch(base, control), cache.fetch(adapter, control) if adapter else None


def _fetch_other(claim: Claim, cache: ModelCache, control: AttemptControl) -> OtherModel | None:
    """Whom an evaluation compares its model with."""
    if claim.against is None:
        return None
    base, above = _fetch_model(claim.against, cache, control)
    return OtherModel(
        model_dir=str(base),
        adapter_dir=str(above) if above else None,
        measured_shape=claim.against.measured_shape,
    )


def _model_files(named: BaseModelRef) -> tuple[tuple[FileRef, ...], tuple[FileRef, ...]]:
    """Of the base model, and of the adapter on it, which may be none."""
    return (named.files, ()) if named.adapter_of is None else (named.base_files, named.files)


def _base_names(model: BaseModelRef) -> dict[str, Any]:
    """How a result names the model it stands on, so that others find the same weights."""
    name = loadable_name(model.adapter_of or model.name, model.hub)
    return {"base_name": name, "base_revision": model.hub.commit if model.hub else None}


def _all_files(claim: Claim) -> Iterator[tuple[FileRef, ...]]:
    """Each set of every model that the attempt reads."""
    for named in (claim.base_model, claim.against):
        if named is not None:
            yield from (files for files in _model_files(named) if files)


def _fetch_data(claim: Claim, folder: Path, control: AttemptControl) -> dict[str, Any]:
    """Paths of the data under names of our own: names that users chose are never paths. Rows are held out here."""
    training, validation = folder / "training.jsonl", folder / "validation.jsonl"
    control.download(claim.training_file, training)
    if claim.spec.evaluation is not None:
        return {"training_file": str(training), "held_out_lines": _chosen_lines(training, claim.spec.evaluation)}
    if claim.validation_file is None:
        with training.open("rb") as lines:
            held_out = held_out_lines(lines, count=claim.dataset.held_out_rows)
        return {"training_file": str(training), "held_out_lines": held_out}
    control.download(claim.validation_file, validation)
    return {"training_file": str(training), "validation_file": str(validation)}


def _chosen_lines(file: Path, evaluation: EvaluationSpec) -> tuple[int, ...]:
    """The rows of a file that has more than are wanted: those with the lowest hash, so that every model has the same.

    None where all are wanted.
    """
    with file.open("rb") as lines:
        if sum(bool(line.strip()) for line in lines) <= evaluation.rows:
            return ()
        lines.seek(0)
        return held_out_lines(lines, count=evaluation.rows) or tuple(range(1, evaluation.rows + 1))


def _final_plan(
    claim: Claim,
    model_dir: Path,
    hardware: HardwareProfile,
    control: AttemptControl,
    *,
    against: OtherModel | None = None,
) -> Plan:
    """Choose again with the memory that is free now. The service's plan stays unless a number to train by differs.

    A pinned plan is not chosen again: it runs as it stands, or not at all.
    """
    if claim.is_plan_pinned:
        decision = replay(claim.plan, hardware=hardware)
        if isinstance(decision, Refusal):
            raise JobFailure(_does_not_fit_now(decision))
        return decision
    decision = _choose_all(claim, model_dir, hardware, dataset=claim.dataset, against=against)
    if isinstance(decision, Refusal):
        raise JobFailure(_does_not_fit_now(decision))
    if is_same_training(decision, claim.plan):
        return claim.plan
    control.phase(PhaseReport(phase=Phase.PREPARING, plan=decision))
    message = "The plan changed because less or more memory is free on the worker than when the job was claimed."
    control.event(EventReport(message=message, data={"method": decision.method.value}))
    return decision


def _choose_all(
    claim: Claim, model_dir: Path, hardware: HardwareProfile, *, dataset: DatasetFacts, against: OtherModel | None
) -> Plan | Refusal:
    """One plan for every base that is loaded, one after another: that of the one that needs most."""
    decisions = [_choose(claim, model_dir, hardware, dataset=dataset)]
    if against is not None and against.model_dir != str(model_dir):
        other = claim.model_copy(update={"base_model": claim.against})
        decisions.append(_choose(other, Path(against.model_dir), hardware, dataset=dataset))
    plans = [decision for decision in decisions if isinstance(decision, Plan)]
    if len(plans) < len(decisions):
        return next(decision for decision in decisions if isinstance(decision, Refusal))
    return max(plans, key=lambda plan: plan.memory.total_bytes)


def _choose(claim: Claim, model_dir: Path, hardware: HardwareProfile, *, dataset: DatasetFacts) -> Plan | Refusal:
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    try:
        return choose(
            spec=claim.spec,
            shape=ModelShape.from_config(config, measured=claim.base_model.measured_shape),
            dataset=dataset,
            hardware=hardware,
            corrections=claim.corrections,
        )
    except InvalidRequest as error:
        raise JobFailure(_unplannable(error)) from error


def _may_lengthen(claim: Claim, plan: Plan) -> bool:
    """Whether the plan's row length is our own guess from estimated tokens: not asked for, or less than that."""
    asked = claim.spec.max_seq_length
    is_guess = (asked == "auto" or plan.max_sequence_length < asked) and not claim.dataset.tokens_are_exact
    return is_guess and not claim.is_plan_pinned


def _does_not_fit_now(refusal: Refusal) -> Failure:
    return Failure(
        code=ErrorCode.DOES_NOT_FIT_NOW,
        message=f"Nothing fits the memory that is free on the worker now. {refusal.text}",
        category=Category.TRANSIENT,
        retryable=True,
        hint="Other processes on the worker may hold memory; the job is tried again.",
    )


def _unplannable(error: InvalidRequest) -> Failure:
    return Failure(
        code=error.code, message=error.message, param=error.param, hint=error.hint, category=Category.USER_ERROR
    )
