"""What measurements teach the next prediction: measured over predicted, by method and kernels, safe against odd ones.

Finished runs and canaries count, a run as much as three canaries. A ratio is a weighted median of the newest, within
bounds that are narrow while few have spoken, and narrowest for a single one. How they scatter makes the margin of the
next peak and the range of the next duration. Memory is predicted lower than the formulas say only when several whole
runs agree: a plan that asks for too much waits longer, one that asks for too little dies.

A speed counts as much as the machine was free of others while it was measured (`trust_of`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from tunesmith.tuning.corrections import Corrections, Ratios
from tunesmith.tuning.estimates.margins import assumed_spread
from tunesmith.tuning.kernels import Kernels
from tunesmith.tuning.plan import MemoryEstimate, TimeEstimate
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.words import Method

LATEST_RUNS = 5  # of each kind: so few follow an upgrade within days, and their median ignores an odd one
LOOKED_BACK_RUNS = 4 * LATEST_RUNS  # of each kind: as far back as speeds are sought that were measured undisturbed
RUN_WEIGHT, CANARY_WEIGHT = 3, 1
ENOUGH = 3  # measurements that must stand together before a ratio may go far, or memory below the formulas
AGREEMENT = 1.15  # the largest of several memory ratios over the smallest, when they agree
# A ratio outside these says that something else was measured: a shared machine, a swapped process.
MEMORY_BOUNDS = (0.6, 1.8)
SPEED_BOUNDS = (0.05, 10.0)
SPEED_BOUNDS_OF_FEW = (0.25, 4.0)  # two that agree
SPEED_BOUNDS_OF_ONE = (2 / 3, 3 / 2)
SPEED_AGREEMENT = 1.5
FAINT = 0.1  # of the trust in the best of them: a speed with less is left out, or it would decide between equals
SAID_FROM_SHARE = 0.1  # of the machine: the plan says that others used so much of it
ASSUMED_SPEED_SPREAD, SPEED_SPREAD_BOUNDS = 0.25, (0.08, 0.6)
ASSUMED_WEIGHT = 2  # measurements that an assumption is worth
SIBLINGS = {
    Method.LORA: (Method.QLORA, Method.FULL),
    Method.QLORA: (Method.LORA, Method.FULL),
    Method.FULL: (Method.LORA, Method.QLORA),
}
# Torch counts what its allocator hands out: neither the context nor the holes are among it.
_UNSEEN_BY_THE_ALLOCATOR = ("context", "slack")


class Measurement(Value):
    """A finished run, or the canary of any, beside its plan. Whatever was not measured is None.

    A canary's speed is that of a micro-step alone, and is held against the same.
    """

    method: Method
    device: str
    kernels: str = ""
    is_canary: bool = False
    memory: MemoryEstimate
    time: TimeEstimate
    planned_tokens_per_micro_step: int
    tokens_per_micro_step: int | None = None
    planned_checkpointing: str = "none"
    activation_checkpointing: str | None = None
    peak_memory_bytes: int | None = None
    tokens_per_second: float | None = None
    training_seconds: float | None = None
    evaluation_seconds: float | None = None
    others_share: float | None = None  # of the machine, used by others meanwhile; None where nobody looked

    @property
    def trust(self) -> float:
        """How much its speed counts, from 0 to 1."""
        return trust_of(self.others_share)

    @property
    def seconds(self) -> float | None:
        """Of training and evaluations: what the plan's duration is held against. Speeds are those of steps alone."""
        return None if self.training_seconds is None else self.training_seconds + (self.evaluation_seconds or 0.0)

    @property
    def predicted_peak_bytes(self) -> int:
        """The part of the predicted peak that the trainer can measure, with the correction it was predicted with."""
        return visible_peak_bytes(self.memory, device=self.device)

    @property
    def predicted_tokens_per_second(self) -> float | None:
        """What the measured speed is held against, with the correction it was predicted with."""
        return self.time.micro_step_tokens_per_second if self.is_canary else self.time.tokens_per_second

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
        predicted, corrected = self.predicted_tokens_per_second, self.time.measured_correction
        if not self.tokens_per_second or not predicted or predicted <= 0 or corrected <= 0:
            return None
        return self.tokens_per_second * corrected / predicted

    @property
    def _has_shrunk(self) -> bool:
        if (self.activation_checkpointing or self.planned_checkpointing) != self.planned_checkpointing:
            return True
        return self.tokens_per_micro_step is not None and (
            self.tokens_per_micro_step < self.planned_tokens_per_micro_step
        )


def trust_of(others_share: float | None) -> float:
    """How much a speed counts that was measured while others used such a share of the machine: (1 - share) squared.

    Fully on an idle machine, a quarter where others used half of it, a hundredth where they used nine tenths; fully
    where nobody looked. Peaks of memory count alike: what others compute does not change them.
    """
    return 1.0 if others_share is None else (1 - min(max(others_share, 0.0), 1.0)) ** 2


def visible_peak_bytes(memory: MemoryEstimate, *, device: str) -> int:
    """What a trainer's own measurement of that peak would show: all of it on a CPU, the allocator's part on a GPU."""
    if device == "cpu":
        return memory.total_bytes
    formula = memory.total_bytes - memory.items.get("measured_correction", 0)
    unseen = sum(memory.items.get(name, 0) for name in _UNSEEN_BY_THE_ALLOCATOR)
    return max(1, int((formula - unseen) * memory.total_bytes / max(formula, 1)))


def measurement_of(plan: Mapping[str, Any], result: Mapping[str, Any], *, is_canary: bool = False) -> Measurement:
    """From a stored plan and the stored report of a run's end, or of its canary; numbers without sense are missing."""
    return Measurement(
        method=plan["method"],
        device=plan["device"],
        kernels=Kernels.of_plan(plan).label,
        is_canary=is_canary,
        memory=MemoryEstimate.model_validate(plan["memory"]),
        time=TimeEstimate.model_validate(plan["time"]),
        planned_tokens_per_micro_step=plan["tokens_per_micro_step"],
        tokens_per_micro_step=_whole(result.get("tokens_per_micro_step")),
        planned_checkpointing=plan.get("activation_checkpointing", "none"),
        activation_checkpointing=_word(result.get("activation_checkpointing")),
        peak_memory_bytes=_whole(result.get("peak_memory_bytes")),
        tokens_per_second=_positive(result.get("tokens_per_second")),
        training_seconds=_positive(result.get("training_seconds")),
        evaluation_seconds=_positive(result.get("evaluation_seconds")),
        others_share=_share(result.get("others_share")),
    )


def corrections_from(runs: Iterable[Measurement]) -> dict[Method, Corrections]:
    """What to multiply the next prediction with. `runs` are of one model on one kind of machine, the newest first.

    Kernels get ratios of their own from a whole run, or from three canaries; else the ratios of their method hold, and
    for a method that never ran here those of its nearest sibling that did: comparing a corrected method with one that
    is not would compare machines.
    """
    by_method: dict[Method, list[Measurement]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run)
    own = {method: _corrections(group, method=method) for method, group in by_method.items()}
    return own | {method: _lent(own, to=method) for method in Method if own and method not in own}


def _lent(own: Mapping[Method, Corrections], *, to: Method) -> Corrections:
    """Memory only upwards: that a sibling needs less than predicted promises nothing."""
    lender = next(method for method in SIBLINGS[to] if method in own)
    found = own[lender]
    memory = None if found.memory is None else max(1.0, found.memory)
    basis = found.basis.replace("this model and method", f"this model with {lender}")
    return Corrections(memory=memory, speed=found.speed, basis=basis, speed_spread=found.speed_spread)


def _corrections(runs: Sequence[Measurement], *, method: Method) -> Corrections:
    by_kernels: dict[str, list[Measurement]] = {}
    for run in runs:
        by_kernels.setdefault(run.kernels, []).append(run)
    coarse = _ratios(runs, of="this model and method")
    fine = {
        kernels: _ratios(group, of=f"this model and method with {kernels}", coarse=coarse)
        for kernels, group in by_kernels.items()
        if sum(_weight(run) for run in group) >= RUN_WEIGHT
    }
    return Corrections(
        memory=coarse.memory,
        speed=coarse.speed,
        basis=coarse.basis,
        speed_spread=coarse.speed_spread,
        memory_spread=_memory_spread(by_kernels.values(), method=method),
        by_kernels=fine,
    )


def _ratios(runs: Sequence[Measurement], *, of: str, coarse: Ratios | None = None) -> Ratios:
    """`coarse` lends its speed where these were disturbed too much to have one of their own."""
    trusted = _newest_trusted(runs)
    memory, basis = _memory(_newest_of_both(runs)), f"{_counted(trusted)} of {of}{_disturbed(trusted)}"
    if coarse is not None and 2 * sum(_speed_weight(run) for run in trusted) < RUN_WEIGHT:
        return Ratios(memory=memory, speed=coarse.speed, basis=basis, speed_spread=coarse.speed_spread)
    speed = _speed(trusted)
    spread = None if speed is None else _speed_spread(trusted, around=speed)
    return Ratios(memory=memory, speed=speed, basis=basis, speed_spread=spread)


def _memory_spread(groups: Iterable[Sequence[Measurement]], *, method: Method) -> float | None:
    """How far peaks lie from the ratio of their own kernels; None while fewer than `ENOUGH` were measured."""
    deviations = []
    for group in groups:
        newest = _newest_of_both(group)
        ratio = _memory(newest)
        known = [run.memory_ratio for run in newest if run.memory_ratio]
        deviations += [math.log(each / ratio) for each in known if ratio]
    if len(deviations) < ENOUGH:
        return None
    return _pooled(deviations, assumed=assumed_spread(method))


def _speed_spread(runs: Sequence[Measurement], *, around: float) -> float:
    """The same of speeds: wide after one run, wider where runs disagree."""
    known = [(math.log(run.speed_ratio / around), run.trust) for run in _undisturbed(runs) if run.speed_ratio]
    deviations, trusts = [deviation for deviation, _ in known], [trust for _, trust in known]
    found = _pooled(deviations, assumed=ASSUMED_SPEED_SPREAD, weights=trusts)
    return _bounded(found, SPEED_SPREAD_BOUNDS)


def _pooled(deviations: Sequence[float], *, assumed: float, weights: Sequence[float] | None = None) -> float:
    """Standard deviation, with what was assumed as good as two measurements."""
    weights = [1.0] * len(deviations) if weights is None else weights
    squares = ASSUMED_WEIGHT * assumed**2
    squares += sum(weight * deviation**2 for deviation, weight in zip(deviations, weights, strict=True))
    return math.sqrt(squares / (ASSUMED_WEIGHT + sum(weights)))


def _newest_of_both(runs: Sequence[Measurement]) -> list[Measurement]:
    return [*_newest(runs, canaries=False), *_newest(runs, canaries=True)]


def _newest(runs: Sequence[Measurement], *, canaries: bool) -> list[Measurement]:
    return [run for run in runs if run.is_canary is canaries][:LATEST_RUNS]


def _newest_trusted(runs: Sequence[Measurement]) -> list[Measurement]:
    """As many of each kind as count like `LATEST_RUNS` undisturbed ones: a busy week hides nothing that was known."""
    found: list[Measurement] = []
    for canaries in (False, True):
        kind = [run for run in runs if run.is_canary is canaries][:LOOKED_BACK_RUNS]
        before = [0.0, *accumulate(run.trust for run in kind)]
        found += [run for run, trust in zip(kind, before, strict=False) if round(trust) < LATEST_RUNS]
    return found


def _undisturbed(runs: Sequence[Measurement]) -> list[Measurement]:
    """Without those that say next to nothing about speed beside the others."""
    best = max((run.trust for run in runs if run.speed_ratio is not None), default=0.0)
    return [run for run in runs if run.speed_ratio is not None and run.trust > FAINT * best]


def _memory(runs: Sequence[Measurement]) -> float | None:
    """Upwards the median; downwards only as far as the highest of several whole runs that agree."""
    known = [(run.memory_ratio, _weight(run)) for run in runs if run.memory_ratio is not None]
    if not known:
        return None
    ratio = _weighted_median(known)
    whole = [run.memory_ratio for run in runs if run.memory_ratio is not None and not run.is_canary]
    if ratio < 1:
        agree = len(whole) >= ENOUGH and max(whole) <= AGREEMENT * min(whole)
        ratio = min(1.0, max(whole)) if agree else 1.0
    return _bounded(ratio, MEMORY_BOUNDS)


def _speed(runs: Sequence[Measurement]) -> float | None:
    """What one observation alone may change is capped, and what a disturbed one may change is capped more."""
    known = [run for run in _undisturbed(runs) if run.speed_ratio is not None]
    if not known:
        return None
    middle = _weighted_median([(run.speed_ratio or 0.0, _speed_weight(run)) for run in known])
    near = [run for run in known if _are_alike(run.speed_ratio or 0.0, middle)]
    return _bounded(middle, _speed_bounds(sum(run.trust for run in known), alike=sum(run.trust for run in near)))


def _speed_bounds(trust: float, *, alike: float) -> tuple[float, float]:
    """How far speeds may move a prediction that count like so many undisturbed ones, and those of them that agree."""
    if round(trust) >= ENOUGH:
        return SPEED_BOUNDS
    if round(alike) > 1:
        return SPEED_BOUNDS_OF_FEW
    low, high = SPEED_BOUNDS_OF_ONE
    return low ** min(1.0, trust), high ** min(1.0, trust)


def _are_alike(one: float, other: float) -> bool:
    return max(one, other) <= SPEED_AGREEMENT * min(one, other)


def _weight(run: Measurement) -> int:
    return CANARY_WEIGHT if run.is_canary else RUN_WEIGHT


def _speed_weight(run: Measurement) -> float:
    return _weight(run) * run.trust


def _weighted_median(values: Sequence[tuple[float, float]]) -> float:
    """Of two values in the middle the less surprising one, so that of two runs the odd one has no say."""
    ordered = sorted(values)
    reached = list(accumulate(weight for _, weight in ordered))
    half, rounding = reached[-1] / 2, 1e-9 * reached[-1]
    low = next(value for (value, _), sum_ in zip(ordered, reached, strict=True) if sum_ >= half - rounding)
    high = next(value for (value, _), sum_ in zip(ordered, reached, strict=True) if sum_ > half + rounding)
    return min(low, high, key=lambda value: abs(math.log(value)) if value > 0 else math.inf)


def _bounded(ratio: float, bounds: tuple[float, float]) -> float:
    return min(max(ratio, bounds[0]), bounds[1])


def _counted(runs: Sequence[Measurement]) -> str:
    """`2 runs and 1 canary step`."""
    canaries = sum(run.is_canary for run in runs)
    counts = {"run": len(runs) - canaries, "canary step": canaries}
    return " and ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in counts.items() if number)


def _disturbed(runs: Sequence[Measurement]) -> str:
    """`, 1 of them discounted because others used 62% of the machine meanwhile`."""
    shares = [run.others_share for run in runs if (run.others_share or 0.0) >= SAID_FROM_SHARE]
    if not shares:
        return ""
    most = max(share for share in shares if share is not None)
    used = f"{'up to ' if len(shares) > 1 else ''}{most:.0%}"
    return f", {len(shares)} of them discounted because others used {used} of the machine meanwhile"


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e18 else None


def _share(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else None


def _whole(value: Any) -> int | None:
    number = _positive(value)
    return None if number is None else int(number)
