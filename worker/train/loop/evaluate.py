"""Validation: mean loss and token accuracy on packed held-out rows, without gradients, shared among processes."""

from typing import NamedTuple

import torch
import torch.distributed

from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.objectives import LossObjective
from tunesmith.worker.train.models.model import Learner


class Evaluation(NamedTuple):
    """Means over all supervised tokens of the held-out rows."""

    loss: float
    accuracy: float


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
