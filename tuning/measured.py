"""What finished runs teach the next prediction: measured over predicted, by method, as a bounded median."""

from collections.abc import Iterable
from statistics import median
from typing import Any

from tuning.base import Value
from tuning.candidates import Corrections
from tuning.job import Method
from tuning.plan import MemoryEstimate, TimeEstimate

LATEST_RUNS = 5  # the median of so few follows an upgrade within days and ignores one odd run
# A ratio outside these says that something else was measured: a shared machine, a swapped process.
MEMORY_BOUNDS = (0.6, 1.8)
SPEED_BOUNDS = (0.05, 10.0)
# Torch counts what its allocator hands out: neither the context nor the holes are among it.
_UNSEEN_BY_THE_ALLOCATOR = ("context", "slack")


class Run(Value):
    """A finished run beside its plan. Whatever was not measured is None."""

    method: Method
    device: str
    memory: MemoryEstimate
    time: TimeEstimate
    planned_tokens_per_micro_step: int
    tokens_per_micro_step: int | None = None
    peak_memory_bytes: int | None = None
    tokens_per_second: float | None = None
    training_seconds: float | None = None

    @property
    def predicted_peak_bytes(self) -> int:
        """The part of the predicted peak that the trainer can measure, with the correction it was predicted with."""
        return visible_peak_bytes(self.memory, device=self.device)

    @property
    def memory_ratio(self) -> float | None:
        """Measured over what the formulas alone predicted. A run that had to shrink needed more than was free."""
        items, total = self.memory.items, self.memory.total_bytes
        formula = total - items.get("measured_correction", 0)
        if formula <= 0:
            return None
        if self._has_shrunk:
            return max(1.0, self.memory.budget_bytes / formula)
        if not self.peak_memory_bytes:
            return None
        return self.peak_memory_bytes / (self.predicted_peak_bytes * formula / total)

    @property
    def speed_ratio(self) -> float | None:
        """Measured over what the formulas alone predicted."""
        formula = self.time.tokens_per_second / self.time.measured_correction
        return self.tokens_per_second / formula if self.tokens_per_second and formula > 0 else None

    @property
    def _has_shrunk(self) -> bool:
        return self.tokens_per_micro_step is not None and (
            self.tokens_per_micro_step < self.planned_tokens_per_micro_step
        )


def visible_peak_bytes(memory: MemoryEstimate, *, device: str) -> int:
    """What a trainer's own measurement of that peak would show: all of it on a CPU, the allocator's part on a GPU."""
    if device == "cpu":
        return memory.total_bytes
    formula = memory.total_bytes - memory.items.get("measured_correction", 0)
    unseen = sum(memory.items.get(name, 0) for name in _UNSEEN_BY_THE_ALLOCATOR)
    return max(1, int((formula - unseen) * memory.total_bytes / max(formula, 1)))


def run_of(plan: dict[str, Any], result: dict[str, Any]) -> Run:
    """From a stored plan and the stored report of how the run ended; numbers that make no sense count as missing."""
    return Run(
        method=plan["method"],
        device=plan["device"],
        memory=MemoryEstimate.model_validate(plan["memory"]),
        time=TimeEstimate.model_validate(plan["time"]),
        planned_tokens_per_micro_step=plan["tokens_per_micro_step"],
        tokens_per_micro_step=_whole(result.get("tokens_per_micro_step")),
        peak_memory_bytes=_whole(result.get("peak_memory_bytes")),
        tokens_per_second=_positive(result.get("tokens_per_second")),
        training_seconds=_positive(result.get("training_seconds")),
    )


def corrections_from(runs: Iterable[Run]) -> dict[Method, Corrections]:
    """What to multiply the next prediction with. `runs` are of one model on one kind of machine, the newest first."""
    by_method: dict[Method, list[Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    return {
        method: Corrections(
            memory=_bounded_median([run.memory_ratio for run in group], MEMORY_BOUNDS),
            speed=_bounded_median([run.speed_ratio for run in group], SPEED_BOUNDS),
        )
        for method, group in by_method.items()
    }


def _bounded_median(ratios: list[float | None], bounds: tuple[float, float]) -> float | None:
    known = [ratio for ratio in ratios if ratio is not None][:LATEST_RUNS]
    return min(max(median(known), bounds[0]), bounds[1]) if known else None


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e18 else None


def _whole(value: Any) -> int | None:
    number = _positive(value)
    return None if number is None else int(number)
