"""What is minimised: cross-entropy on supervised tokens, or direct preference optimisation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import logsigmoid

from tunesmith.tuning.plan import Plan
from tunesmith.worker.train.data.packing import PackedBatch
from tunesmith.worker.train.kernels.loss import LossSums, summed_cross_entropy, token_log_probabilities
from tunesmith.worker.train.models.model import Learner


@dataclass(frozen=True)
class LossObjective:
    """`sums` gives a micro-step's loss and hits; the divisor is supervised tokens or, if not `per_token`, rows."""

    sums: Callable[[Learner, PackedBatch], LossSums]
    per_token: bool
    accuracy: str
    needs_reference: bool = False  # what the model as it starts thinks of each row

    def units(self, batch: PackedBatch) -> int:
        """What a batch contributes to the divisor."""
        return batch.supervised_tokens if self.per_token else len(batch.rows)


def planned_objective(plan: Plan) -> LossObjective:
    """What the plan says is to be learnt. DPO needs the rows of a `ReferencePass` besides."""
    return supervised() if plan.objective == "supervised" else preference(beta=plan.beta or 0.1)


def supervised() -> LossObjective:
    """Mean negative log-likelihood per supervised token."""
    return LossObjective(sums=_cross_entropy, per_token=True, accuracy="mean_token_accuracy")


def preference(*, beta: float) -> LossObjective:
    """DPO (arXiv 2305.18290): -log sigmoid(beta * (gain of the preferred answer - gain of the other)), per row.

    The gain is log-probability under the model less that under the model as it started. A hit is a gap above zero.
    """
    return LossObjective(
        sums=partial(_preference, beta=beta), per_token=False, accuracy="reward_accuracy", needs_reference=True
    )


def log_probabilities(learner: Learner, batch: PackedBatch) -> torch.Tensor:
    """Log-probability of both answers of each row: fp32 [rows, 2]."""
    per_token = learner(batch, token_log_probabilities)
    sums = torch.zeros(2 * len(batch.rows), dtype=torch.float32, device=per_token.device)
    return sums.index_add(0, batch.target_sequences, per_token).view(-1, 2)


def _cross_entropy(learner: Learner, batch: PackedBatch) -> LossSums:
    return learner(batch, summed_cross_entropy)


def _preference(learner: Learner, batch: PackedBatch, *, beta: float) -> LossSums:
    if batch.reference is None:
        raise ValueError("preference rows need reference log-probabilities")
    gains = log_probabilities(learner, batch) - batch.reference
    gap = beta * (gains[:, 0] - gains[:, 1])
    return LossSums(-logsigmoid(gap).sum(), (gap > 0).sum())
