"""How fast a run goes: the seconds of its steps and evaluations, and from them how long the rest will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tunesmith.worker.train.checkpoints.state import TrainState


class Pace:
    """Adds the seconds of steps, and apart from them of evaluations, to `progress`; those of checkpoints do not count.

    `progress` has the sums of the whole run. What is foretold rests on this process alone: on a moving average of its
    steps, and on the mean of its evaluations.
    """

    def __init__(self, progress: TrainState, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._progress, self._clock = progress, clock
        self._began = clock()
        self._step_seconds: float | None = None
        self._evaluation_seconds, self._evaluations = 0.0, 0

    def begin_step(self) -> None:
        """An optimizer step begins now."""
        self._began = self._clock()

    def end_step(self, *, tokens: int) -> float:
        """It has ended; returns its speed in tokens per second, padding not counted."""
        seconds = max(1e-9, self._clock() - self._began)
        self._progress.training_seconds += seconds
        recent = self._step_seconds
        self._step_seconds = seconds if recent is None else 0.9 * recent + 0.1 * seconds
        return tokens / seconds

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Around an evaluation, with the sample answers that belong to it."""
        began = self._clock()
        yield
        seconds = self._clock() - began
        self._progress.evaluation_seconds += seconds
        self._evaluation_seconds += seconds
        self._evaluations += 1

    def remaining_seconds(self, steps: int, *, evaluations: int = 0) -> float | None:
        """Of so many more steps and evaluations, these as long as those so far; None before the first step."""
        if self._step_seconds is None:
            return None
        each = self._evaluation_seconds / self._evaluations if self._evaluations else 0.0
        return self._step_seconds * steps + each * evaluations
