"""Validation: mean loss and token accuracy on packed held-out rows, without gradients."""

from typing import NamedTuple

import torch

from worker.train.data.packing import pack, plan_micro_steps
from worker.train.data.rows import Rows
from worker.train.loop.objectives import Objective
from worker.train.models.model import Learner


class Evaluation(NamedTuple):
    """Means over all supervised tokens of the held-out rows."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(
    learner: Learner, rows: Rows, *, objective: Objective, token_budget: int, device: torch.device
) -> Evaluation:
    """One pass over `rows`. Dropout is off during it; no random number is drawn."""
    was_training = learner.training
    learner.eval()
    loss, correct, units = 0.0, 0, 0
    for chosen in plan_micro_steps(range(len(rows)), rows.lengths(), token_budget=token_budget):
        batch = pack(chosen, rows, device=device)
        sums = objective.sums(learner, batch)
        loss += float(sums.loss)
        correct += int(sums.correct)
        units += objective.units(batch)
    learner.train(was_training)
    return Evaluation(loss=loss / max(1, units), accuracy=correct / max(1, units))
