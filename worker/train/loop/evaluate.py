"""Validation: mean loss and token accuracy on packed held-out rows, without gradients, shared among processes."""

from typing import NamedTuple

import torch
import torch.distributed

from tunesmith.tuning.recipe.evaluations import evaluation_count
from tunesmith.tuning.state import Phase
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.generation.samples import Samples
from tunesmith.worker.train.loop.objectives import LossObjective
from tunesmith.worker.train.loop.start import Start
from tunesmith.worker.train.models.model import Learner


class Evaluation(NamedTuple):
    """Means over the units of the held-out rows: supervised tokens, or under DPO rows. accuracy: from 0 to 1."""

    loss: float
    accuracy: float


class Evaluator:
    """Evaluates a run on its held-out rows when that is due, if it has any, and asks for sample answers."""

    def __init__(self, start: Start) -> None:
        self._start, self._run, self._learner = start, start.run, start.learner
        rows = start.run.validation_rows
        self._held_out = None if rows is None else (rows, start.sharing_of(rows))
        self._samples = Samples(start.run)

    def is_due(self, step: int) -> bool:
        """Whether to evaluate after `step`: at the plan's interval, after the last, and at 0, the untrained model."""
        is_end = step == self._start.total_steps
        return self._held_out is not None and (is_end or step % self._run.plan.evaluation_interval_steps == 0)

    def count_after(self, step: int) -> int:
        """How many evaluations are still to come once `step` and its own are over."""
        total_steps, interval = self._start.total_steps, self._run.plan.evaluation_interval_steps
        if self._held_out is None or step == total_steps:
            return 0
        return evaluation_count(total_steps, interval=interval) - 1 - step // interval

    def evaluate(self) -> Evaluation:
        """The model as it stands after the step that `progress` names; the same in all processes. Call it where due.

        Raises:
            JobFailure: `out_of_memory`.
        """
        self._run.recorder.phase(Phase.EVALUATING)
        evaluation = combined(self._own_sums(), processes=self._run.processes)
        self._record_samples()
        self._run.recorder.phase(Phase.TRAINING)
        return evaluation

    def _own_sums(self) -> torch.Tensor:
        if self._held_out is None:
            raise ValueError("a run without held-out rows has nothing to evaluate on")
        start, (rows, sharing) = self._start, self._held_out
        return start.ladder.descend_until_it_fits(
            lambda: own_sums(
                start.learner,
                rows,
                objective=start.objective,
                sharing=sharing,
                token_budget=start.progress.token_budget,
                device=start.run.device,
            ),
            doing=f"while evaluating after step {start.progress.step}",
            has_backward=False,
            undo=self._learner.train,  # one that was cut off has left dropout off
        )

    def _record_samples(self) -> None:
        progress = self._start.progress
        is_at_an_end = progress.step in (0, self._start.total_steps)
        so_far = None if is_at_an_end else progress.training_seconds
        self._samples.record(self._learner, step=progress.step, training_seconds=so_far)


@torch.no_grad()
def own_sums(
    learner: Learner, rows: Rows, *, objective: LossObjective, sharing: Sharing, token_budget: int, device: torch.device
) -> torch.Tensor:
    """Loss, hits and units of this process's share of `rows`, added up: fp64 [3].

    Dropout is off during it; no random number is drawn.
    """
    was_training = learner.training
    learner.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    for chosen, counts in sharing.passes(range(len(rows)), token_budget=token_budget):
        batch = pack(chosen, rows, device=device)
        sums = objective.sums(learner, batch)
        if counts:
            totals[:2] += torch.stack([sums.loss, sums.correct]).to(totals)
            totals[2] += objective.units(batch)
    learner.train(was_training)
    return totals


def combined(own: torch.Tensor, *, processes: int) -> Evaluation:
    """The means, the same in all processes: their sums are added in the order of their ranks."""
    totals = own
    if processes > 1:
        everyones = [torch.empty_like(own) for _ in range(processes)]
        torch.distributed.all_gather(everyones, own)
        totals = torch.stack(everyones).sum(dim=0)
    loss, correct, units = totals.tolist()
    return Evaluation(loss=loss / max(1, units), accuracy=correct / max(1, units))
