"""Whether a second run gave the same result as the first, and what about the two was not the same."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from tunesmith.tuning.planner.pinned import EXPLANATION
from tunesmith.tuning.values.base import Value

Json = Mapping[str, Any]

# What of a run's manifest must be equal before equal results can be expected; the rest is identity and outcome.
CIRCUMSTANCES = (
    "data", "base_model", "continued_from", "seed", "plan", "resolved", "attempts", "code", "versions", "hardware",
)  # fmt: skip
CURVE = ("train_loss", "valid_loss", "grad_norm")
WEIGHTS = ".safetensors"


class Difference(Value):
    """One fact that the two runs do not share."""

    what: str
    """Its path in the manifest, such as `versions.torch`."""
    first: Any
    """Its value in the first run; null where it has none."""
    second: Any
    """Its value in the second run; null where it has none."""


class WeightFile(Value):
    """One file of weights in both runs."""

    name: str
    """The file's name in the result."""
    first_sha256: str | None
    """SHA-256 in the first run; null where it wrote no such file."""
    second_sha256: str | None
    """SHA-256 in the second run; null where it wrote no such file."""

    @property
    def is_identical(self) -> bool:
        """Whether both runs wrote the same bytes."""
        return self.first_sha256 == self.second_sha256


class Comparison(Value):
    """The verdict on two runs, and what differs."""

    verdict: Literal["identical", "differs"]
    """Identical when every byte of the weights and every number of the curve is the same."""
    weights: tuple[WeightFile, ...]
    """Every file of weights of either run."""
    steps_compared: int
    """Steps that both runs have a point of."""
    largest_differences: dict[str, float | None]
    """The largest absolute difference by column of the curve; null where some step has the number in one run only."""
    first_different_step: int | None
    """The first step at which any column differs; null where none does."""
    differences: tuple[Difference, ...]
    """What the two runs were not made of alike."""


def compare(first: Json, second: Json, *, first_points: Sequence[Json], second_points: Sequence[Json]) -> Comparison:
    """Judge two runs by their manifests and their metric points, one point per step each.

    A manifest may carry `attempts`, how many it took to finish: a run that was resumed on other hardware, or by another
    plan, need not end like one that was not.
    """
    weights = tuple(_weights(first.get("files", {}), second.get("files", {})))
    mine, other = ({int(point["step"]): point for point in points} for points in (first_points, second_points))
    largest = dict.fromkeys(CURVE, 0.0)
    first_step = None
    for step in sorted(mine.keys() | other.keys()):
        gaps = {name: _gap(mine.get(step, {}).get(name), other.get(step, {}).get(name)) for name in CURVE}
        largest = {name: max(largest[name], gap) for name, gap in gaps.items()}
        if first_step is None and any(gaps.values()):
            first_step = step
    same = bool(weights) and all(file.is_identical for file in weights) and first_step is None
    return Comparison(
        verdict="identical" if same else "differs",
        weights=weights,
        steps_compared=len(mine.keys() & other.keys()),
        largest_differences={name: gap if math.isfinite(gap) else None for name, gap in largest.items()},
        first_different_step=first_step,
        differences=tuple(_circumstances(first, second)),
    )


def _weights(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[WeightFile]:
    for name in sorted(name for name in first.keys() | second.keys() if name.endswith(WEIGHTS)):
        yield WeightFile(name=name, first_sha256=first.get(name), second_sha256=second.get(name))


def _gap(first: float | None, second: float | None) -> float:
    """Zero for equal numbers and for a number that neither run has; endless where only one has it."""
    if first == second:
        return 0.0
    if first is None or second is None or not math.isfinite(first) or not math.isfinite(second):
        return math.inf
    return abs(first - second)


def _circumstances(first: Json, second: Json) -> Iterator[Difference]:
    mine, other = (dict(_flat({name: run.get(name) for name in CIRCUMSTANCES})) for run in (first, second))
    for what in sorted(mine.keys() | other.keys()):
        if mine.get(what) != other.get(what):
            yield Difference(what=what, first=mine.get(what), second=other.get(what))


def _flat(value: Json, *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if prefix == "plan." and name in EXPLANATION:
            continue
        if isinstance(inner, Mapping):
            yield from _flat(inner, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner
