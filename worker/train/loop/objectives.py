"""What is minimised: cross-entropy on supervised tokens, or direct preference optimisation."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from worker.train.data.packing import PackedBatch, pack, plan_micro_steps
from worker.train.data.rows import Rows
from worker.train.failures import is_out_of_memory
from worker.train.kernels.loss import LossSums, summed_cross_entropy, token_log_probabilities
from worker.train.models.model import Learner
from worker.train.run import Run


@dataclass(frozen=True)
class Objective:
    """`sums` gives a micro-step's loss and hits; the divisor is supervised tokens or, if not `per_token`, rows."""

    sums: Callable[[Learner, PackedBatch], LossSums]
    per_token: bool
    accuracy: str

    def units(self, batch: PackedBatch) -> int:
        """What a batch contributes to the divisor."""
        return batch.supervised_tokens if self.per_token else len(batch.rows)


def objective_of(run: Run, learner: Learner) -> tuple[Run, Objective]:
    """The plan's objective, and the run with what the objective must know about the rows.

    For preferences that is what the model as it starts thinks of each answer. It is computed before any checkpoint is
    loaded, so a resumed run finds the same numbers.
    """
    if run.plan.objective == "supervised":
        return run, supervised()
    run.recorder.event("Reading what the untrained model thinks of each preference pair.")
    score = partial(_with_reference, learner=learner, token_budget=2 * run.plan.tokens_per_micro_step)
    held_out = run.validation_rows
    scored = replace(
        run,
        rows=score(run.rows, device=run.device),
        validation_rows=None if held_out is None else score(held_out, device=run.device),
    )
    return scored, preference(beta=run.plan.beta or 0.1)


def supervised() -> Objective:
    """Mean negative log-likelihood per supervised token."""
    return Objective(sums=_cross_entropy, per_token=True, accuracy="mean_token_accuracy")


def preference(*, beta: float) -> Objective:
    """DPO (arXiv 2305.18290): -log sigmoid(beta * (gain of the preferred answer - gain of the other)), per row.

    The gain is log-probability under the model less that under the model as it started. A hit is a gap above zero.
    """
    return Objective(sums=partial(_preference, beta=beta), per_token=False, accuracy="reward_accuracy")


def _cross_entropy(learner: Learner, batch: PackedBatch) -> LossSums:
    return learner(batch, summed_cross_entropy)


def _preference(learner: Learner, batch: PackedBatch, *, beta: float) -> LossSums:
    if batch.reference is None:
        raise ValueError("preference rows need reference log-probabilities")
    gains = _log_probabilities(learner, batch) - batch.reference
    gap = beta * (gains[:, 0] - gains[:, 1])
    return LossSums(-logsigmoid(gap).sum(), (gap > 0).sum())


def _log_probabilities(learner: Learner, batch: PackedBatch) -> torch.Tensor:
    """Log-probability of both answers of each row: fp32 [rows, 2]."""
    per_token = learner(batch, token_log_probabilities)
    sums = torch.zeros(2 * len(batch.rows), dtype=torch.float32, device=per_token.device)
    return sums.index_add(0, batch.target_sequences, per_token).view(-1, 2)


def _with_reference(rows: Rows, *, learner: Learner, token_budget: int, device: torch.device) -> Rows:
    """The rows with their scores; in smaller pieces each time memory runs out, down to the longest row alone."""
    smallest = int(rows.lengths().max())
    while True:
        try:
            return replace(rows, reference=_scored(rows, learner, token_budget=token_budget, device=device))
        except (RuntimeError, MemoryError) as error:
            if token_budget <= smallest or not is_out_of_memory(error):
                raise
        gc.collect()  # here, where no traceback holds the memory any more
        if device.type == "cuda":
            torch.cuda.empty_cache()
        token_budget = max(smallest, token_budget // 2)


@torch.no_grad()
def _scored(rows: Rows, learner: Learner, *, token_budget: int, device: torch.device) -> np.ndarray:
    learner.eval()
    reference = np.zeros((len(rows), 2), dtype=np.float32)
    for chosen in plan_micro_steps(range(len(rows)), rows.lengths(), token_budget=token_budget):
        reference[chosen] = _log_probabilities(learner, pack(chosen, rows, device=device)).cpu().numpy()
    return reference
