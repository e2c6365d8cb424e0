"""The gradients of one optimizer step, in as many micro-steps as memory allows.

When memory runs out, the same rows are laid out again in micro-steps of half the tokens and the step is computed again
from its start, with the same random numbers. The loss is normalised over the global batch, so nothing changes but time.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed

from worker.train import checkpoint as checkpoints
from worker.train.checkpoint import Progress
from worker.train.failures import is_out_of_memory
from worker.train.model import Learner
from worker.train.objectives import Objective
from worker.train.optimizer import MasterOptimizer
from worker.train.packing import pack, plan_micro_steps, share_among
from worker.train.run import Run

MAX_HALVINGS = 4
FIRST_LOSS_SCALE = 2.0**15  # fp16 only; halved whenever a gradient overflows


@dataclass(frozen=True)
class StepSums:
    """One optimizer step over the global batch. `loss` is the mean, `units` what it is a mean of."""

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
    """Computes steps for one run; what it learns about memory and fp16 range it keeps in `progress`."""

    def __init__(
        self, run: Run, learner: Learner, masters: MasterOptimizer, *, objective: Objective, progress: Progress
    ) -> None:
        self._run, self._learner, self._masters, self._objective = run, learner, masters, objective
        self._progress = progress
        self._lengths = run.rows.lengths()
        self._supervised = run.rows.supervised_counts()
        if not progress.token_budget:
            progress.token_budget = first_budget(run)
        if not progress.loss_scale:
            progress.loss_scale = FIRST_LOSS_SCALE if run.plan.precision == "fp16" else 1.0

    def compute(self, chosen: list[int]) -> StepSums:
        """Leave the clipped gradient of the mean loss over rows `chosen` in the masters.

        Raises:
            torch.OutOfMemoryError: even the smallest micro-steps do not fit.
        """
        state = checkpoints.random_state()
        while True:
            try:
                sums = self._attempt(chosen)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._halve_budget():
                    raise
            else:
                if sums.is_finite or not self._halve_loss_scale():
                    return sums
            self._masters.clear()
            if self._run.device.type == "cuda":
                torch.cuda.empty_cache()
            checkpoints.restore_random_state(state)

    def _attempt(self, chosen: list[int]) -> StepSums:
        micro_steps = plan_micro_steps(chosen, self._lengths, token_budget=self._progress.token_budget)
        shares = share_among(micro_steps, self._lengths, processes=self._run.processes)
        supervised = int(self._supervised[chosen].sum())
        units = supervised if self._objective.per_token else len(chosen)
        totals = torch.zeros(2, dtype=torch.float64, device=self._run.device)
        for rows in shares[self._run.rank]:
            sums = self._objective.sums(self._learner, pack(rows, self._run.rows, device=self._run.device))
            (sums.loss * (self._progress.loss_scale / units)).backward()
            totals += torch.stack([sums.loss.detach(), sums.correct]).to(totals)
        self._reduce(totals)
        norm = self._masters.clip(self._run.plan.max_gradient_norm)
        loss, correct = totals.tolist()
        return StepSums(
            loss=loss / units,
            norm=float(norm),
            correct=int(correct),
            units=units,
            supervised_tokens=supervised,
            tokens=int(self._lengths[chosen].sum()),
        )

    def _reduce(self, totals: torch.Tensor) -> None:
        """Undo the loss scale and sum over processes: each divided by the global batch's units already."""
        if self._progress.loss_scale != 1.0:
            for gradient in self._masters.gradients():
                gradient.div_(self._progress.loss_scale)
        if self._run.processes > 1:
            torch.distributed.all_reduce(totals)
            self._masters.sum_over_processes()

    def _halve_budget(self) -> bool:
        budget = self._progress.token_budget
        smallest = max(int(np.max(self._lengths)), first_budget(self._run) >> MAX_HALVINGS)
        if budget <= smallest:
            return False
        self._progress.token_budget = budget = max(smallest, budget // 2)
        step = self._progress.step + 1
        self._run.recorder.event(
            f"Memory ran out at step {step}; going on with {budget} tokens per micro-step, which changes the speed "
            "but not the result.",
            level="warn",
            tokens_per_micro_step=budget,
            step=step,
        )
        return True

    def _halve_loss_scale(self) -> bool:
        if self._progress.loss_scale <= 1.0:
            return False
        self._progress.loss_scale /= 2.0
        return True


def first_budget(run: Run) -> int:
    """Tokens per micro-step as planned; a preference pair brings two sequences."""
    return run.plan.tokens_per_micro_step * run.rows.sequences_per_row
