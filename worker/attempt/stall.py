"""A trainer that hangs: it lives, and shows no new step, event or phase for far longer than the plan can explain."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.plan import Plan
from tunesmith.worker.run_directory import RunDirectory

_TIMES_PREDICTED = 10
_BYTES_PER_SECOND = 50e6  # of a slow disk: weights are loaded, checkpoints and results written, with nothing to show
_ROWS_PER_SECOND = 50  # that are tokenised, by a slow template


@dataclass(frozen=True)
class SilenceLimits:
    """How many seconds a trainer may show nothing: until its first step, and from then on."""

    before_first_step: float
    later: float


def silence_limits(plan: Plan, dataset: DatasetFacts, *, moved_bytes: int, at_least_seconds: float) -> SilenceLimits:
    """Ten times the longest piece of work that the plan predicts, and the time to move `moved_bytes` beside it.

    `moved_bytes` are all that the run reads and writes. Before the first step rows are tokenised, and of preference
    pairs each is seen once by the reference.
    """
    step = plan.time.training_seconds / max(1, plan.total_steps)
    evaluation = plan.time.evaluation_seconds + plan.time.sample_seconds
    moving = moved_bytes / _BYTES_PER_SECOND
    later = max(at_least_seconds, _TIMES_PREDICTED * max(step, evaluation)) + moving
    reference = plan.time.training_seconds / max(1, plan.epochs) if plan.objective == "dpo" else 0.0
    rows = (dataset.all_rows + dataset.validation_rows) / _ROWS_PER_SECOND
    return SilenceLimits(before_first_step=later + rows + _TIMES_PREDICTED * reference, later=later)


class StallWatch:
    """Looks at what the trainer writes. A change of any of its files is a sign of work."""

    def __init__(
        self, run: RunDirectory, limits: SilenceLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._limits = limits
        self._clock = clock
        self._signs = tuple(self._look())
        self._changed_at = clock()

    def stalled_seconds(self) -> float | None:
        """For how long there has been no sign, when that is too long; else None."""
        signs = tuple(self._look())
        if signs != self._signs:
            self._signs, self._changed_at = signs, self._clock()
        silent = self._clock() - self._changed_at
        return silent if silent > self._limit() else None

    def _limit(self) -> float:
        has_stepped = bool(_stamp(self._run.metrics))
        return self._limits.later if has_stepped else self._limits.before_first_step

    def _look(self) -> Iterator[tuple[int, int] | None]:
        run = self._run
        for path in (run.metrics, run.events, run.phase, run.timeline, run.canary, run.dataset, run.result):
            yield _stamp(path)
        for folder in (run.checkpoints, run.tokens, run.ranks, run.output):
            yield _stamp(folder)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return state.st_size, state.st_mtime_ns
