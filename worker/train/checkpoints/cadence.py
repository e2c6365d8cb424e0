"""When checkpoints are taken: at the plan's interval, and less often where they would hold up training.

The budget: copying the state and waiting for the writer of the one before may take 5 % of the time spent in training
steps, and two seconds on top so that short runs keep their checkpoints. One that does not fit waits for a later step.
Which steps are saved changes nothing about what a step computes: a resumed run still ends with the same bytes.
"""

import time
from collections.abc import Callable

from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.checkpoints.writer import CheckpointWriter
from tunesmith.worker.train.run import RunContext

STALL_SHARE = 0.05
STALL_GRACE_SECONDS = 2.0


class CheckpointCadence:
    """Decides, the same in every process of a run, at which steps a checkpoint is taken; counts what it costs."""

    def __init__(
        self,
        run: RunContext,
        writer: CheckpointWriter,
        progress: TrainState,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run, self._writer, self._progress, self._clock = run, writer, progress, clock
        self._interval_steps = run.plan.checkpoint_interval_steps
        self._is_overdue = False

    def is_time(self, step: int, *, training_seconds: float) -> bool:
        """Whether to take a checkpoint after this step. May wait for the writer, as far as the budget goes."""
        if not (self._is_overdue or step % self._interval_steps == 0):
            return False
        if not self._run.is_main:
            self._writer.wait(at_most_seconds=0)  # only to hear of what went wrong with this process's part
        if self._run.agree(self._run.is_main and self._writer_is_free(training_seconds)):
            self._is_overdue = False
            return True
        if not self._is_overdue:
            self._lengthen(step, training_seconds)
        self._is_overdue = True
        return False

    def note_copied(self, seconds: float) -> None:
        """A checkpoint's state was copied, while training stood still."""
        self._progress.checkpoint_stall_seconds += seconds

    def _writer_is_free(self, training_seconds: float) -> bool:
        """An overdue checkpoint only looks: waiting at every step would spend the whole budget on a slow disk."""
        left = STALL_GRACE_SECONDS + STALL_SHARE * training_seconds - self._progress.checkpoint_stall_seconds
        if left <= 0:
            return False
        began = self._clock()
        is_free = self._writer.wait(at_most_seconds=0 if self._is_overdue else left)
        self._progress.checkpoint_stall_seconds += self._clock() - began
        return is_free

    def _lengthen(self, step: int, training_seconds: float) -> None:
        before, self._interval_steps = self._interval_steps, 2 * self._interval_steps
        stall = self._progress.checkpoint_stall_seconds
        self._run.recorder.event(
            f"Checkpoints held training up for {stall:.1f} s of {training_seconds:.1f} s; at most {STALL_SHARE:.0%} is "
            f"allowed. From now on one every {self._interval_steps} steps instead of every {before}.",
            level="warn",
            step=step,
            checkpoint_interval_steps=self._interval_steps,
            checkpoint_stall_seconds=round(stall, 3),
        )
