"""The loss scale of fp16 (arXiv 1710.03740, section 3.2), without which small gradients would become zero.

It is halved whenever a gradient overflows, and doubled after as many good steps in a row as torch.amp.GradScaler waits
for.
"""

import math
from collections.abc import Iterable

import torch

from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.loop.step_metrics import StepSums

FIRST_LOSS_SCALE, LARGEST_LOSS_SCALE = 2.0**15, 2.0**24
GOOD_STEPS_TO_DOUBLE = 2000


class LossScale:
    """What a loss is multiplied by before its backward pass: a power of two under fp16, 1 in any other precision.

    It is kept in `progress`, so that a resumed run goes on with it.
    """

    def __init__(self, progress: TrainState, *, precision: str) -> None:
        self._progress, self._moves = progress, precision == "fp16"
        if not progress.loss_scale:
            progress.loss_scale = FIRST_LOSS_SCALE if self._moves else 1.0

    @property
    def value(self) -> float:
        """The scale now."""
        return self._progress.loss_scale

    def take_out_of(self, gradients: Iterable[torch.Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        if self.value != 1.0:
            for gradient in gradients:
                gradient.div_(self.value)

    def accepts(self, sums: StepSums) -> bool:
        """Whether a step stands; if not, its gradient has overflowed, and it is to be computed again at half the scale.

        One whose loss is no number stands as it is: it was none before it was scaled.
        """
        if sums.is_finite:
            self._count_good_step()
            return True
        if not math.isfinite(sums.loss) or self.value <= 1.0:
            return True
        self._set(self.value / 2.0)
        return False

    def _count_good_step(self) -> None:
        if not self._moves:
            return
        self._progress.good_steps_at_loss_scale += 1
        if self._progress.good_steps_at_loss_scale >= GOOD_STEPS_TO_DOUBLE:
            self._set(min(LARGEST_LOSS_SCALE, 2.0 * self.value))

    def _set(self, scale: float) -> None:
        self._progress.loss_scale, self._progress.good_steps_at_loss_scale = scale, 0
