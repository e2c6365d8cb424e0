"""How a step is cut into micro-steps changes nothing: the loss is a mean over the global batch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.loop.loop import StepGradients
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import preference, supervised
from tunesmith.worker.train.loop.step_metrics import StepSums
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.session import prepare

ROWS = 9
OBJECTIVES = {"supervised": supervised(), "dpo": preference(beta=0.5)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def one_step(root: Path, model: Path, *, objective: str, budget: int) -> tuple[StepSums, list[torch.Tensor]]:
    """Sums and gradients of one step over all rows, in micro-steps of at most `budget` tokens a sequence."""
    rows = runs.chat_rows(ROWS) if objective == "supervised" else runs.preference_rows(ROWS)
    changes = {"rows_per_step": ROWS, "tokens_per_micro_step": budget, "max_gradient_norm": 1e9}
    plan = plans.plan(method="full", objective=objective, **changes)
    directory = runs.make_run(root, model=model, plan=plan, rows=rows)
    run = prepare(directory.request(), directory)
    if objective == "dpo":  # a model that has moved away from its reference, by another amount for each answer
        reference = np.random.default_rng(0).normal(-40, 5, (ROWS, 2)).astype(np.float32)
        object.__setattr__(run, "rows", Rows(**{**vars(run.rows), "reference": reference}))
    loaded = load_model(model, plan=plan, device=run.device)
    loaded.requires_grad_(True)
    learner = Learner(loaded, attention=run.attention).train()
    masters = MasterOptimizer(learner.trainable(), plan=plan)
    progress = TrainState()
    ladder = MemoryLadder(run, learner, progress=progress)
    gradients = StepGradients(
        run,
        learner,
        masters,
        objective=OBJECTIVES[objective],
        progress=progress,
        ladder=ladder,
        feed=runs.feed_of(run),
    )
    return gradients.compute(1), [gradient.clone() for gradient in masters.gradients()]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_many_micro_steps_have_the_loss_and_gradients_of_one(tmp_path: Path, model: Path, objective: str) -> None:
    whole, wanted = one_step(tmp_path / "whole", model, objective=objective, budget=2000)
    parts, got = one_step(tmp_path / "parts", model, objective=objective, budget=20)

    assert (parts.units, parts.correct, parts.tokens) == (whole.units, whole.correct, whole.tokens)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.norm == pytest.approx(whole.norm, rel=1e-4)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
