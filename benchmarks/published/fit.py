"""Fits the constants of `tuning.estimates.gpu_speed` to the published runs that are not held out.

Coordinate by coordinate, each constant within bounds that physics or the other sources allow, until nothing improves.
A source's runs together weigh as the square root of their number, so that one long table does not decide.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.published.predict import prediction
from benchmarks.published.runs import Book, Run
from tunesmith.tuning.estimates.gpu_speed import GPU_SPEEDS, GpuSpeeds

BOUNDS = {
    "products": (0.5, 0.85),
    "size_exponent": (0.0, 0.6),
    "half_rate_tokens": (20, 600),
    "attention": (0.2, 1.0),
    "touched_bytes": (10, 120),
    "library_launches": (1.0, 4.0),
    "link": (0.3, 0.9),
    "hidden": (0.3, 1.0),
    "dequantization_bytes": (4.5, 14),
}
STEPS = (1.3, 1.1, 1.03, 1.01)


def fit(book: Book) -> GpuSpeeds:
    """The constants that leave the least squared logarithm of published over predicted speed."""
    runs = [run for run in book.runs if run.tokens_per_second and not run.is_held_out]
    best, lowest = GPU_SPEEDS, misfit(book, runs, GPU_SPEEDS)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for tried in _neighbours(best, step=step):
                found = misfit(book, runs, tried)
                if found < lowest * (1 - 1e-5):
                    best, lowest, improved = tried, found, True
    return best


def misfit(book: Book, runs: Sequence[Run], speeds: GpuSpeeds) -> float:
    """Weighted sum of absolute logarithms, squared below a fifth: a few odd runs must not bend the rest."""
    counts = Counter(run.source for run in runs)
    total = 0.0
    for run in runs:
        off = abs(math.log(prediction(book, run, speeds=speeds).speed_ratio or 1))
        total += (off * off / 0.4 if off < 0.2 else off - 0.1) / math.sqrt(counts[run.source])
    return total


def _neighbours(speeds: GpuSpeeds, *, step: float) -> list[GpuSpeeds]:
    """One constant a step up or down, within its bounds."""
    return [
        replace(speeds, **{name: min(highest, max(lowest, tried))})
        for name, (lowest, highest) in BOUNDS.items()
        for tried in (getattr(speeds, name) * step, getattr(speeds, name) / step)
    ]
