"""fp16: the loss scale follows the gradients, and a forward pass that gives no number is not computed again."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.run_directory import EXIT_FAILED, EXIT_STOPPED
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.packing import PackedBatch
from tunesmith.worker.train.kernels.loss import LossSums
from tunesmith.worker.train.loop import loss_scale, objectives
from tunesmith.worker.train.loop.loop import StepGradients
from tunesmith.worker.train.loop.loss_scale import FIRST_LOSS_SCALE
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import supervised
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.session import prepare

Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


class Steps:
    """One run's steps, of which the loss or its gradient can be changed."""

    def __init__(self, root: Path, model: Path, *, precision: str = "fp16", change: Change = lambda loss: loss) -> None:
        plan = plans.plan(precision=precision)
        directory = runs.make_run(root, model=model, plan=plan)
        run = prepare(directory.request(), directory)
        assert plan.lora is not None
        base = load_model(model, plan=plan, device=run.device)
        learner = Learner(attach_adapter(base, plan.lora, continue_from=None, seed=1), attention=run.attention).train()
        self.progress, self.passes, self._change = TrainState(), 0, change
        self.masters = MasterOptimizer(learner.trainable(), plan=plan)
        self.gradients = StepGradients(
            run,
            learner,
            self.masters,
            objective=replace(supervised(), sums=self._sums),
            progress=self.progress,
            ladder=MemoryLadder(run, learner, progress=self.progress),
            feed=runs.feed_of(run),
        )

    def _sums(self, learner: Learner, batch: PackedBatch) -> LossSums:
        self.passes += 1
        sums = supervised().sums(learner, batch)
        return sums._replace(loss=self._change(sums.loss))


def overflowing_above(limit: float) -> Change:
    """The gradient of the loss overflows where it is scaled by more than `limit`, as that of a half would."""

    def change(loss: torch.Tensor) -> torch.Tensor:
        same = loss * 1.0
        same.register_hook(lambda gradient: gradient * math.inf if gradient.abs() * 40 > limit else gradient)
        return same

    return change


def test_a_loss_that_is_no_number_ends_the_step_at_once(tmp_path: Path, model: Path) -> None:
    steps = Steps(tmp_path, model, change=lambda loss: loss * math.nan)
    sums = steps.gradients.compute(1)
    assert not sums.is_finite
    assert steps.passes == 1
    assert steps.progress.loss_scale == FIRST_LOSS_SCALE


@pytest.mark.slow
def test_a_gradient_that_overflows_at_every_scale_ends_the_step_at_the_smallest(tmp_path: Path, model: Path) -> None:
    steps = Steps(tmp_path, model, change=overflowing_above(0.0))
    sums = steps.gradients.compute(1)
    assert not sums.is_finite
    assert steps.progress.loss_scale == 1.0
    assert steps.passes <= 2 + math.log2(FIRST_LOSS_SCALE)


def spoil_losses(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    cross_entropy = objectives.summed_cross_entropy

    def spoiled(*inputs: torch.Tensor) -> LossSums:
        sums = cross_entropy(*inputs)
        return sums._replace(loss=change(sums.loss))

    monkeypatch.setattr(objectives, "summed_cross_entropy", spoiled)


def test_a_run_whose_gradient_overflows_at_every_scale_says_so(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, overflowing_above(0.0))
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(precision="fp16"))
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert (result.failure.code, result.failure.retryable) == ("loss_is_not_finite", False)
    assert "The gradient norm at step 1" in result.failure.message


def test_a_gradient_that_overflows_halves_the_scale_until_it_fits_and_changes_no_gradient(
    tmp_path: Path, model: Path
) -> None:
    plain, overflowing = (
        Steps(tmp_path / name, model, change=change)
        for name, change in (("plain", lambda loss: loss), ("overflowing", overflowing_above(2.0**13)))
    )
    wanted, found = plain.gradients.compute(1), overflowing.gradients.compute(1)
    assert found.is_finite
    assert FIRST_LOSS_SCALE / 2**6 < overflowing.progress.loss_scale < FIRST_LOSS_SCALE
    assert found.norm == pytest.approx(wanted.norm, rel=1e-2)
    assert overflowing.progress.good_steps_at_loss_scale == 1


def test_after_enough_good_steps_the_scale_doubles_up_to_a_limit(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS_TO_DOUBLE", 2)
    monkeypatch.setattr(loss_scale, "LARGEST_LOSS_SCALE", 2.0**16)
    steps = Steps(tmp_path, model)
    scales = []
    for step in (1, 2, 3, 4, 5):
        assert steps.gradients.compute(step).is_finite
        scales.append(steps.progress.loss_scale)
        steps.masters.clear()
    assert scales == [2.0**15, 2.0**16, 2.0**16, 2.0**16, 2.0**16]


def test_other_precisions_have_no_scale(tmp_path: Path, model: Path) -> None:
    steps = Steps(tmp_path, model, precision="fp32")
    steps.gradients.compute(1)
    assert (steps.progress.loss_scale, steps.progress.good_steps_at_loss_scale) == (1.0, 0)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_scale_and_its_count(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS_TO_DOUBLE", 4)
    plan = plans.plan(precision="fp16", checkpoint_interval_steps=1)
    alone, stopped = (runs.make_run(tmp_path / name, model=model, plan=plan) for name in ("alone", "stopped"))
    assert runs.train_here(alone) == 0
    stopped.stop.touch()
    assert runs.train_here(stopped) == EXIT_STOPPED
    stopped.stop.unlink()
    assert runs.train_here(stopped) == 0
    weights = [(run.output / "adapter_model.safetensors").read_bytes() for run in (alone, stopped)]
    assert weights[0] == weights[1]
    states = [max(run.checkpoints.glob("step-*")) / "state.json" for run in (alone, stopped)]
    for state in states:
        assert '"loss_scale": 65536.0, "good_steps_at_loss_scale": 2' in state.read_text()


def test_the_run_says_that_the_loss_and_not_a_gradient_was_no_number(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, lambda loss: loss * math.nan)
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(precision="fp16"))
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "loss_is_not_finite"
    assert "The loss at step 1" in result.failure.message
