"""A forecast and the record of earlier ones as the API shows them."""

from typing import Any

from tunesmith.service.planning.accuracy import Error, memory_error, time_error
from tunesmith.service.planning.fleet import Answer
from tunesmith.service.planning.prices import Prices, gpu_hours
from tunesmith.service.plans.dry_run import Forecast
from tunesmith.tuning.api.accuracy import CurrentError, MeasuredPlan
from tunesmith.tuning.api.plans import PlanAnswer, PlanEntry
from tunesmith.tuning.estimates.measured import Measurement
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.search.layouts import CPU_USABLE_SHARE


def plan_object(forecast: Forecast, *, prices: Prices) -> PlanAnswer:
    """One entry for every class of live worker, then one for every imagined machine."""
    entries = [_entry(answer, prices=prices) for answer in forecast.answers]
    warnings = list(forecast.warnings)
    return PlanAnswer(dataset=forecast.dataset, data=entries, chosen=forecast.chosen, warnings=warnings)


def accuracy_object(
    run: Measurement, *, attempt_id: str, job_id: str, worker_class: str, model: str, ended_at: int
) -> MeasuredPlan:
    """Predicted beside measured for one finished run."""
    return MeasuredPlan(
        id=attempt_id,
        job=job_id,
        finished_at=ended_at,
        worker_class=worker_class,
        model=model,
        method=run.method,
        kernels=run.kernels,
        predicted_peak_bytes=run.predicted_peak_bytes,
        measured_peak_bytes=run.peak_memory_bytes,
        peak_error=memory_error(run),
        predicted_tokens_per_second=run.time.tokens_per_second,
        measured_tokens_per_second=run.tokens_per_second,
        speed_error=_error(run.tokens_per_second, run.time.tokens_per_second),
        time_error=time_error(run),
        predicted_seconds=run.time.seconds,
        predicted_seconds_low=run.time.seconds_low,
        predicted_seconds_high=run.time.seconds_high,
        measured_seconds=run.seconds,
        others_share=run.others_share,
    )


def error_object(error: Error) -> CurrentError:
    """How right predictions of one kind are now."""
    return CurrentError(
        worker_class=error.kind.worker_class,
        model=error.kind.model,
        method=error.kind.method,
        kernels=error.kind.kernels,
        runs=error.runs,
        canaries=error.canaries,
        memory_error=error.memory,
        time_error=error.time,
        newest_at=error.newest_at,
    )


def _entry(answer: Answer, *, prices: Prices) -> PlanEntry:
    decision = answer.decision
    return PlanEntry(
        worker_class=answer.name,
        workers=answer.workers,
        idle=answer.idle,
        what_if=not answer.workers,
        fits=isinstance(decision, Plan),
        expected_start_seconds=answer.starts_in_seconds,
        reasons=list(decision.reasons),
        alternatives=list(decision.alternatives),
        **(
            _fitting(decision, cost=prices.cost(decision, worker_class=answer.name))
            if isinstance(decision, Plan)
            else _refused(decision, answer.hardware)
        ),
    )


def _fitting(plan: Plan, *, cost: float | None) -> dict[str, Any]:
    return {
        "plan": plan,
        "refusal": None,
        "predicted_peak_bytes": plan.memory.total_bytes,
        "free_bytes": plan.memory.budget_bytes,
        "seconds": plan.time.seconds,
        "seconds_low": plan.time.seconds_low,
        "seconds_high": plan.time.seconds_high,
        "gpu_hours": gpu_hours(plan),
        "cost": cost,
    }


def _refused(refusal: Refusal, hardware: HardwareProfile) -> dict[str, Any]:
    """The peak is that of the smallest way that does not fit either."""
    gpus = [gpu.memory_free_bytes for gpu in hardware.gpus]
    return {
        "plan": None,
        "refusal": refusal.text,
        "predicted_peak_bytes": min((other.peak_bytes for other in refusal.alternatives), default=None),
        "free_bytes": max(gpus) if gpus else int(hardware.cpu.memory_free_bytes * CPU_USABLE_SHARE),
        "seconds": None,
        "seconds_low": None,
        "seconds_high": None,
        "gpu_hours": None,
        "cost": None,
    }


def _error(measured: float | None, predicted: float) -> float | None:
    return measured / predicted - 1 if measured is not None and predicted > 0 else None
