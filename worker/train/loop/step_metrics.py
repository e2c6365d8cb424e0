"""The numbers of one optimizer step: its sums over the global batch, and the point that a run records of it."""

import math
import time
from dataclasses import dataclass
from typing import Any

from tunesmith.tuning.metrics import METRICS
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.order import steps_per_epoch
from tunesmith.worker.train.recorder import peak_memory_bytes
from tunesmith.worker.train.run import RunContext


@dataclass(frozen=True)
class StepSums:
    """One optimizer step over the global batch, all processes together.

    rows: those of the batch; loss: the mean over `units`, supervised tokens or under DPO rows; norm: of the gradient
    before it was clipped; correct: hits among the units.
    """

    rows: list[int]
    loss: float
    norm: float
    correct: int
    units: int
    supervised_tokens: int
    tokens: int

    @property
    def is_finite(self) -> bool:
        """Whether both loss and gradient norm are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class MetricPoints:
    """Makes the points of one run, each with all of `METRICS`. `accuracy` is the objective's name for its hit rate."""

    def __init__(self, run: RunContext, progress: TrainState, *, accuracy: str, total_steps: int) -> None:
        self._run, self._progress, self._accuracy, self._total_steps = run, progress, accuracy, total_steps
        self._steps_per_epoch = steps_per_epoch(len(run.rows), rows_per_step=run.plan.rows_per_step)

    def of_step(
        self,
        sums: StepSums,
        *,
        learning_rate: float,
        tokens_per_second: float,
        mfu: float | None,
        remaining_seconds: float | None,
    ) -> dict[str, Any]:
        """Of the step that `progress` has just counted."""
        return self._point() | {
            f"train_{self._accuracy}": sums.correct / max(1, sums.units),
            "train_loss": sums.loss,
            "learning_rate": learning_rate,
            "grad_norm": sums.norm,
            "tokens_per_second": tokens_per_second,
            "supervised_tokens": self._progress.supervised_tokens,
            "trained_tokens": self._progress.trained_tokens,
            "mfu": mfu,
            "eta_seconds": remaining_seconds,
            "memory_bytes": peak_memory_bytes(self._run.device),
        }

    def of_untrained_model(self) -> dict[str, Any]:
        """Of step 0, to which an evaluation is to be added."""
        return self._point()

    def of_evaluation(self, *, loss: float, accuracy: float) -> dict[str, float]:
        """What an evaluation adds to the point of its step."""
        return {"valid_loss": loss, f"valid_{self._accuracy}": accuracy}

    def _point(self) -> dict[str, Any]:
        step = self._progress.step
        reached = {"step": step, "total_steps": self._total_steps, "epoch": step / self._steps_per_epoch}
        return {**dict.fromkeys(METRICS), **reached, "time": time.time()}
