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


class CheckpointSchedule:
    """Decides after which steps a checkpoint is taken, the same in every process of a run.

    `progress` says what checkpoints have cost so far, and gets added what waiting for the writer costs here.
    """

    def __init__(
        self,
        run: RunContext,
        writer: CheckpointWriter,
        progress: TrainState,
        *,
        total_steps: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run, self._writer, self._progress, self._clock = run, writer, progress, clock
        self._total_steps, self._interval_steps = total_steps, run.plan.checkpoint_interval_steps
        self._is_overdue = False

    def is_due(self, step: int) -> bool:
        """Whether to take one after `step`, as after the last in any case. May wait for the writer, within the budget.

        All processes must ask.

        Raises:
            OSError: the checkpoint before could not be written, for example because the disk is full.
            JobFailure: `checkpoint_part_missing`, of the checkpoint before.
        """
        if step == self._total_steps:
            return True
        if not (self._is_overdue or step % self._interval_steps == 0):
            return False
        if not self._run.is_main:
            self._writer.wait(at_most_seconds=0)  # only to hear of what went wrong with this process's part
        if self._run.agree(self._run.is_main and self._writer_is_free()):
            self._is_overdue = False
            return True
        if not self._is_overdue:
            self._lengthen(step)
        self._is_overdue = True
        return False

    def _writer_is_free(self) -> bool:
        """An overdue checkpoint only looks: waiting at every step would spend the whole budget on a slow disk."""
        budget = STALL_GRACE_SECONDS + STALL_SHARE * self._progress.training_seconds
        left = budget - self._progress.checkpoint_stall_seconds
        if left <= 0:
            return False
        began = self._clock()
        is_free = self._writer.wait(at_most_seconds=0 if self._is_overdue else left)
        self._progress.checkpoint_stall_seconds += self._clock() - began
        return is_free

    def _lengthen(self, step: int) -> None:
        before, self._interval_steps = self._interval_steps, 2 * self._interval_steps
        stall, training = self._progress.checkpoint_stall_seconds, self._progress.training_seconds
        self._run.recorder.event(
            f"Checkpoints held training up for {stall:.1f} s of {training:.1f} s; at most {STALL_SHARE:.0%} is "
            f"allowed. From now on one every {self._interval_steps} steps instead of every {before}.",
            level="warn",
            step=step,
            checkpoint_interval_steps=self._interval_steps,
            checkpoint_stall_seconds=round(stall, 3),
        )
