"""The gradients of one optimizer step, in as many micro-steps as memory allows.

When memory runs out, the step is computed again from its start, with the same rows and the same random numbers, a rung
lower on the ladder of `worker.train.loop.memory_ladder`.
"""

import math
import time
from dataclasses import dataclass

import torch
import torch.distributed

from tunesmith.worker.train.checkpoints import state as checkpoints
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.feed import Feed
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import LossObjective
from tunesmith.worker.train.models.model import Learner
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.optim.zero import ShardedOptimizer
from tunesmith.worker.train.run import RunContext

# Loss scaling for fp16 (arXiv 1710.03740, section 3.2): halved whenever a gradient overflows, doubled after as many
# good steps in a row as torch.amp.GradScaler waits for.
FIRST_LOSS_SCALE, LARGEST_LOSS_SCALE = 2.0**15, 2.0**24
GOOD_STEPS_TO_DOUBLE = 2000


@dataclass(frozen=True)
class StepSums:
    """One optimizer step over the global batch, its `rows`. `loss` is the mean, `units` what it is a mean of."""

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


class GradientSource:
    """Computes steps for one run; what it learns about fp16's range it keeps in `progress`, as the ladder does."""

    def __init__(
        self,
        run: RunContext,
        learner: Learner,
        masters: MasterOptimizer | ShardedOptimizer,
        *,
        objective: LossObjective,
        progress: TrainState,
        ladder: MemoryLadder,
        feed: Feed,
    ) -> None:
        self._run, self._learner, self._masters, self._objective = run, learner, masters, objective
        self._progress, self._ladder, self._feed = progress, ladder, feed
        self._lengths = run.rows.lengths()
        self._supervised = run.rows.supervised_counts()
        if not progress.loss_scale:
            progress.loss_scale = FIRST_LOSS_SCALE if run.plan.precision == "fp16" else 1.0

    def compute(self, step: int) -> StepSums:
        """Leave the clipped gradient of the mean loss over the rows of a step in the masters.

        Raises:
            JobFailure: `out_of_memory`: even the last rung does not fit.
        """
        chosen = self._feed.rows_of(step)
        state = checkpoints.random_state()

        def undo() -> None:
            self._masters.clear()
            checkpoints.restore_random_state(state)

        while True:
            totals = self._ladder.descend_until_it_fits(
                lambda: self._own_share(step, chosen),
                doing=f"at step {step}",
                has_backward=True,
                meet=self._masters.sum_over_processes,
                undo=undo,
            )
            sums = self._combined(chosen, totals)
            if sums.is_finite:
                self._note_good_step()
                return sums
            # A loss that is no number was none before it was scaled: another scale would give the same.
            if not math.isfinite(sums.loss) or not self._halve_loss_scale():
                return sums
            undo()

    def time_micro_step(self, rows: list[int]) -> float:
        """Seconds of forward and backward over rows as one micro-step; the masters' gradients are to be cleared.

        Where they are shared out they cannot be, and so add nothing.
        """
        scale = 0.0 if self._masters.lockstep else self._progress.loss_scale
        began = time.perf_counter()
        batch = pack(rows, self._run.rows, device=self._run.device)
        loss = self._objective.sums(self._learner, batch).loss
        self._masters.backward(loss * (scale / max(1, self._objective.units(batch))), last=False)
        if self._run.device.type == "cuda":
            torch.cuda.synchronize(self._run.device)
        return time.perf_counter() - began

    def _own_share(self, step: int, chosen: list[int]) -> torch.Tensor:
        """Gradients of this process's micro-steps, added up; returns its summed loss and hits, fp64 [2]."""
        scale = self._progress.loss_scale / self._units(chosen)
        totals = torch.zeros(2, dtype=torch.float64, device=self._run.device)
        for batch, counts, last in self._feed.batches(step, token_budget=self._progress.token_budget):
            sums = self._objective.sums(self._learner, batch)
            self._masters.backward(sums.loss * (counts * scale), last=last)
            totals += counts * torch.stack([sums.loss.detach(), sums.correct]).to(totals)
        return totals

    def _combined(self, chosen: list[int], totals: torch.Tensor) -> StepSums:
        if self._run.processes > 1:
            torch.distributed.all_reduce(totals)
        self._unscale()
        norm = self._masters.clip(self._run.plan.max_gradient_norm)
        units = self._units(chosen)
        loss, correct = totals.tolist()
        return StepSums(
            rows=chosen,
            loss=loss / units,
            norm=float(norm),
            correct=int(correct),
            units=units,
            supervised_tokens=int(self._supervised[chosen].sum()),
            tokens=int(self._lengths[chosen].sum()),
        )

    def _units(self, chosen: list[int]) -> int:
        return int(self._supervised[chosen].sum()) if self._objective.per_token else len(chosen)

    def _unscale(self) -> None:
        """Undo the loss scale; each process has divided by the global batch's units already."""
        if self._progress.loss_scale != 1.0:
            for gradient in self._masters.gradients():
                gradient.div_(self._progress.loss_scale)

    def _halve_loss_scale(self) -> bool:
        if self._progress.loss_scale <= 1.0:
            return False
        self._progress.loss_scale /= 2.0
        self._progress.good_steps_at_loss_scale = 0
        return True

    def _note_good_step(self) -> None:
        if self._run.plan.precision != "fp16":
            return
        self._progress.good_steps_at_loss_scale += 1
        if self._progress.good_steps_at_loss_scale >= GOOD_STEPS_TO_DOUBLE:
            self._progress.loss_scale = min(LARGEST_LOSS_SCALE, 2.0 * self._progress.loss_scale)
            self._progress.good_steps_at_loss_scale = 0
