"""Early stopping and the best weights: a run that no longer gets better ends, and its result is the best seen."""

import math

from tunesmith.worker.train.checkpoints.best import BestWeights
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.run import RunContext

AS_GOOD = 1.01  # times the lowest validation loss: a last step within that is no worse than the noise of few rows


class EarlyStopping:
    """Compares the evaluations of one run, and stops it after as many in a row without a better one as the plan waits.

    What it has seen is in `progress`, so that a resumed run goes on counting. Without patience (0 in the plan) it
    counts all the same, but nothing stops. The best weights are kept and given back where the plan says so.
    """

    def __init__(self, run: RunContext, progress: TrainState, best: BestWeights, *, total_steps: int) -> None:
        self._run, self._progress, self._best, self._total_steps = run, progress, best, total_steps
        self._patience = run.plan.early_stopping_patience

    def observe(self, valid_loss: float) -> None:
        """Compare an evaluation after the step that `progress` names with the best so far, and keep better weights.

        The untrained model is what training is measured against, no result to go back to.
        """
        progress = self._progress
        progress.last_valid_loss = valid_loss
        if progress.first_valid_loss is None:
            progress.first_valid_loss = valid_loss
        if progress.step == 0:
            return
        if math.isfinite(valid_loss) and (progress.best_valid_loss is None or valid_loss < progress.best_valid_loss):
            progress.best_valid_loss, progress.best_step = valid_loss, progress.step
            progress.evaluations_since_best = 0
            if self._run.plan.keeps_best_weights:
                self._best.keep()
        else:
            progress.evaluations_since_best += 1

    def has_stalled(self) -> bool:
        """Whether validation has not improved for as many evaluations as the plan is willing to wait."""
        return bool(self._patience) and self._progress.evaluations_since_best >= self._patience

    def restore_best(self) -> None:
        """At the end of a run: put the best weights seen back into the model, and tell people which those are."""
        progress = self._progress
        if not self._run.plan.keeps_best_weights or progress.best_valid_loss is None:
            return
        if not self._patience and self._ends_as_good():
            progress.best_valid_loss, progress.best_step = progress.last_valid_loss, progress.step
            return
        self._run.recorder.event(
            f"{self._ending()}. The result holds the weights of step {progress.best_step}, whose validation loss was "
            f"the lowest ({progress.best_valid_loss:.4f}; at the end {progress.last_valid_loss:.4f}).",
            step=progress.step,
            best_step=progress.best_step,
            best_valid_loss=progress.best_valid_loss,
            evaluations_since_best=progress.evaluations_since_best,
        )
        if progress.best_step != progress.step:
            self._best.restore()
            progress.last_valid_loss = progress.best_valid_loss

    def _ends_as_good(self) -> bool:
        last, best = self._progress.last_valid_loss, self._progress.best_valid_loss
        return last is not None and best is not None and last <= AS_GOOD * best

    def _ending(self) -> str:
        progress = self._progress
        if self.has_stalled() and progress.step < self._total_steps:
            told = f"Stopped early at step {progress.step} of {self._total_steps}"
        else:
            told = f"Trained all {self._total_steps} steps"
        first, best = progress.first_valid_loss, progress.best_valid_loss
        if first is not None and best is not None and best >= first:
            told += f"; no evaluation was better than the untrained model's ({first:.4f})"
        return told
