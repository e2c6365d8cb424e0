"""What is minimised: cross-entropy on supervised tokens, or direct preference optimisation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from worker.train.loss import LossSums, summed_cross_entropy
from worker.train.model import Learner
from worker.train.packing import PackedBatch


@dataclass(frozen=True)
class Objective:
    """`sums` gives a micro-step's loss and hits; the divisor is supervised tokens or, if not `per_token`, rows."""

    sums: Callable[[Learner, PackedBatch], LossSums]
    per_token: bool

    def units(self, batch: PackedBatch) -> int:
        """What a batch contributes to the divisor."""
        return batch.supervised_tokens if self.per_token else len(batch.rows)


def supervised() -> Objective:
    """Mean negative log-likelihood per supervised token."""
    return Objective(
        sums=lambda learner, batch: summed_cross_entropy(_hidden(learner, batch), batch.labels, learner.head),
        per_token=True,
    )


def _hidden(learner: Learner, batch: PackedBatch) -> torch.Tensor:
    hidden: torch.Tensor = learner(batch)
    return hidden
