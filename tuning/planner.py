"""Choose how to train a job on given hardware and say why: `choose` ranks the plans that fit by ordered rules."""

from collections.abc import Mapping

from tuning.candidates import Candidate, best_candidate
from tuning.checks import check_hardware, impossible
from tuning.constants import explain_constants
from tuning.corrections import Corrections
from tuning.devices import equal_devices, why_apart
from tuning.hardware import HardwareProfile
from tuning.job import DatasetFacts, JobSpec, Method, Objective
from tuning.plan import Alternative, MemoryEstimate, Plan, Reason, Refusal, TimeEstimate
from tuning.recipe import (
    checkpoint_interval,
    choose_early_stopping,
    choose_learning_rate,
    evaluation_interval,
    warmup_steps,
)
from tuning.remedies import remedy
from tuning.rules import decide
from tuning.shape import ModelShape
from tuning.units import duration, gib

NO_CORRECTIONS = Corrections()


def choose(
    *,
    spec: JobSpec,
    shape: ModelShape,
    dataset: DatasetFacts,
    hardware: HardwareProfile,
    corrections: Corrections | Mapping[Method, Corrections] = NO_CORRECTIONS,
) -> Plan | Refusal:
    """Decide everything about one run, or refuse with the numbers that forbid it. A pure function, under 5 ms.

    `corrections` holds measured over predicted ratios of earlier runs on this hardware, one for all methods or by
    method; a method without any is predicted by the formulas alone.

    Raises:
        InvalidRequest: the hardware or the data cannot be what they claim (negative memory, no rows).
    """
    check_hardware(hardware)
    refusal = impossible(spec=spec, shape=shape, dataset=dataset)
    if refusal is not None:
        return refusal
    first: Plan | Refusal | None = None
    for kind in equal_devices(hardware):
        decision = _choose_on_equals(kind, spec=spec, shape=shape, dataset=dataset, corrections=corrections)
        if isinstance(decision, Plan):
            return _say_which(decision, kind, of=hardware)
        first = first or decision
    assert first is not None  # noqa: S101  there is always a machine to try
    return first


def _choose_on_equals(
    hardware: HardwareProfile,
    *,
    spec: JobSpec,
    shape: ModelShape,
    dataset: DatasetFacts,
    corrections: Corrections | Mapping[Method, Corrections],
) -> Plan | Refusal:
    def candidate(asked: JobSpec, method: Method) -> Candidate:
        return best_candidate(
            method,
            spec=asked,
            shape=shape,
            dataset=dataset,
            hardware=hardware,
            corrections=corrections
            if isinstance(corrections, Corrections)
            else corrections.get(method, NO_CORRECTIONS),
        )

    candidates = {method: candidate(spec, method) for method in Method}
    decision = decide(candidates, spec=spec, dataset=dataset, hardware=hardware)
    if decision.method is None:
        way_out = remedy(candidates, spec=spec, dataset=dataset, retry=candidate)
        return Refusal(reasons=(*decision.reasons, way_out), alternatives=decision.alternatives)
    chosen = candidates[decision.method]
    return _plan(
        chosen, decision.reasons, decision.alternatives, spec=spec, shape=shape, dataset=dataset, hardware=hardware
    )


def _say_which(plan: Plan, kind: HardwareProfile, *, of: HardwareProfile) -> Plan:
    if len(kind.gpus) == len(of.gpus):
        return plan
    text = why_apart(kind.gpus, of=of.gpus)
    return plan.model_copy(update={"reasons": (*plan.reasons, Reason(rule="devices", text=text))})


def _plan(
    candidate: Candidate,
    reasons: tuple[Reason, ...],
    alternatives: tuple[Alternative, ...],
    *,
    spec: JobSpec,
    shape: ModelShape,
    dataset: DatasetFacts,
    hardware: HardwareProfile,
) -> Plan:
    setup, batch = candidate.setup, candidate.batch
    full = setup.method is Method.FULL
    rate, rate_reason = choose_learning_rate(spec, shape, method=setup.method, rows_per_step=batch.rows_per_step)
    patience, patience_reasons = choose_early_stopping(spec, dataset, total_steps=batch.total_steps)
    beta = spec.hyperparameters.beta
    seconds_per_step = candidate.time.seconds / batch.total_steps
    return Plan(
        method=setup.method,
        objective=spec.objective.value,
        device=setup.device,
        world_size=setup.world_size,
        precision=setup.precision,
        attention=candidate.attention,
        quantization="nf4" if setup.method is Method.QLORA else None,
        double_quantization=setup.double_quantization,
        lora=None if full else candidate.lora,
        activation_checkpointing=setup.checkpointing,
        optimizer=setup.optimizer,
        packing=setup.packing,
        fused_passes=setup.fused_passes,
        float8_base=setup.float8_base,
        zero_stage=setup.zero_stage,
        offload_optimizer=setup.offload_optimizer,
        sharded_base=setup.sharded_base,
        learning_rate=rate,
        schedule="linear",
        warmup_steps=warmup_steps(batch.total_steps),
        weight_decay=0.01 if full else 0.0,
        max_gradient_norm=1.0,
        beta=(0.1 if beta == "auto" else beta) if spec.objective is Objective.DPO else None,
        epochs=batch.epochs,
        rows_per_step=batch.rows_per_step,
        max_sequence_length=candidate.max_sequence_length,
        on_long_row=spec.on_long_row,
        tokens_per_micro_step=setup.tokens_per_micro_step,
        total_steps=batch.total_steps,
        evaluation_interval_steps=evaluation_interval(batch.total_steps, patience=patience),
        early_stopping_patience=patience,
        checkpoint_interval_steps=checkpoint_interval(batch.total_steps, seconds_per_step=seconds_per_step),
        seed=spec.seed,
        memory=candidate.memory,
        time=candidate.time,
        reasons=(
            *reasons,
            *candidate.reasons,
            rate_reason,
            *patience_reasons,
            explain_constants(hardware, precision=setup.precision),
            _summary(candidate, hardware),
        ),
        alternatives=alternatives,
    )


def _summary(candidate: Candidate, hardware: HardwareProfile) -> Reason:
    memory, time = candidate.memory, candidate.time
    where = hardware.gpus[0].name if hardware.gpus else hardware.cpu.model
    return Reason(
        rule="prediction",
        text=(
            f"Predicted peak {gib(memory.total_bytes)} of {gib(memory.budget_bytes)} free on this {where}; "
            f"{time.tokens_per_second:,.0f} tokens/s, {duration(time.seconds_low)} to {duration(time.seconds_high)}."
            f"{_learned(memory, time, basis=candidate.correction_basis)}"
        ),
    )


def _learned(memory: MemoryEstimate, time: TimeEstimate, *, basis: str) -> str:
    """What earlier measurements changed about the prediction, and which they were."""
    extra = memory.items.get("measured_correction", 0)
    ratio = memory.total_bytes / max(1, memory.total_bytes - extra)
    if not extra and time.measured_correction == 1:
        return f" Confirmed by what was measured here: {basis}." if basis else ""
    resting_on = f" ({basis})" if basis else ""
    return (
        f" Corrected by what earlier runs here measured: memory x {ratio:.2f}, speed x {time.measured_correction:.2f}"
        f"{resting_on}."
    )
