"""When memory ends a run gives up speed, never its result, and says what it gave up.

Memory is limited for real here: what the forward pass keeps for the backward pass is counted, and beyond a limit the
allocator's own error is raised.
"""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch.autograd.graph import saved_tensors_hooks

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.errors import Category
from tunesmith.tuning.plan import MemoryEstimate
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import EXIT_FAILED, EXIT_STOPPED, RunDirectory
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.packing import PackedBatch
from tunesmith.worker.train.kernels import rebuild
from tunesmith.worker.train.loop import evaluate
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.run import RunContext
from tunesmith.worker.train.session import prepare

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
RESULT = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
Rung = tuple[int, str]  # tokens per micro-step, activation checkpointing
LONGEST = 29  # tokens of the longest row, below which no micro-step can go


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


class Memory:
    """Holds so many bytes of activations; `peak` is the most that was asked for at once."""

    def __init__(self, limit_bytes: float) -> None:
        self.limit_bytes, self.peak, self._kept = limit_bytes, 0, 0

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        self._kept += tensor.numel() * tensor.element_size()
        self.peak = max(self.peak, self._kept)
        if self._kept > self.limit_bytes:
            torch.rand(3)  # a random number drawn in vain, as dropout would before memory ends
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has 1.00 GiB free.")
        return tensor.detach()

    def limit(self, forward: Any) -> Any:
        def limited(learner: Learner, batch: PackedBatch, *inputs: Any) -> Any:
            if not batch.rows:  # the trial before training has rows of its own
                return forward(learner, batch, *inputs)
            self._kept = 0
            with saved_tensors_hooks(self.keep, lambda kept: kept), patch.object(rebuild, "kept", self.keep):
                return forward(learner, batch, *inputs)

        return limited


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Endless until a test sets a limit."""
    memory = Memory(float("inf"))
    monkeypatch.setattr(Learner, "forward", memory.limit(Learner.forward))
    return memory


def settings(method: str, **changes: Any) -> dict[str, Any]:
    """Every step sees all rows, so that the first step is as large as any."""
    return {"method": method, "learning_rate": 1e-3, "rows_per_step": 24, "epochs": 3, **changes}


def peak_bytes(memory: Memory, root: Path, model: Path, method: str, checkpointing: str) -> int:
    """What one step with the smallest micro-steps keeps."""
    memory.limit_bytes, memory.peak = float("inf"), 0
    smallest = settings(method, tokens_per_micro_step=LONGEST, activation_checkpointing=checkpointing)
    directory = runs.make_run(root / checkpointing, model=model, plan=plans.plan(**smallest))
    directory.stop.touch()
    assert runs.train_here(directory) == EXIT_STOPPED
    memory.limit_bytes = float("inf")
    return memory.peak


def peak_with_full_checkpointing_alone(memory: Memory, root: Path, model: Path, method: str) -> float:
    """A limit that only the last rung stays below."""
    peaks = [peak_bytes(memory, root, model, method, mode) for mode in ("full", "mlp", "selective", "none")]
    assert peaks == sorted(set(peaks))
    return (peaks[0] + peaks[1]) / 2


def rungs(directory: RunDirectory) -> list[Rung]:
    found = [event["data"] for event in runs.events(directory) if "activation_checkpointing" in event["data"]]
    return [(data["tokens_per_micro_step"], data["activation_checkpointing"]) for data in found]


def assert_same_training(first: RunDirectory, second: RunDirectory, method: str) -> None:
    losses = [[point.get("train_loss") for point in runs.metrics(directory)] for directory in (first, second)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    weights = [load_file(directory.output / RESULT[method]) for directory in (first, second)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_every_rung_is_told_and_the_run_ends_with_the_losses_and_weights_of_a_roomy_one(
    tmp_path: Path, model: Path, memory: Memory, method: str
) -> None:
    limit = peak_with_full_checkpointing_alone(memory, tmp_path, model, method)
    plan = plans.plan(**settings(method, tokens_per_micro_step=190))
    roomy = runs.make_run(tmp_path / "roomy", model=model, plan=plan)
    assert runs.train_here(roomy) == 0
    memory.limit_bytes = limit
    tight = runs.make_run(tmp_path / "tight", model=model, plan=plan)
    assert runs.train_here(tight) == 0

    assert rungs(roomy) == []
    assert rungs(tight) == [
        (95, "none"), (47, "none"), (LONGEST, "none"), (LONGEST, "selective"), (LONGEST, "mlp"),
        (LONGEST, "full"),
    ]  # fmt: skip
    assert_same_training(roomy, tight, method)
    result = tight.read_result()
    assert result is not None
    assert (result.tokens_per_micro_step, result.activation_checkpointing) == (LONGEST, "full")
    told = [event["message"] for event in runs.events(tight) if event["level"] == "warn"]
    assert told[0] == (
        "Memory ran out at the canary step before training; going on with 95 tokens per micro-step instead of 190, "
        "which changes the speed but not the result."
    )
    assert "going on with selective activation checkpointing instead of none" in told[3]


@pytest.mark.slow
def test_a_resumed_run_goes_on_from_the_rung_that_was_reached(tmp_path: Path, model: Path, memory: Memory) -> None:
    limit = peak_with_full_checkpointing_alone(memory, tmp_path, model, "lora")
    plan = plans.plan(**settings("lora", tokens_per_micro_step=190))
    memory.limit_bytes = limit
    alone = runs.make_run(tmp_path / "alone", model=model, plan=plan)
    assert runs.train_here(alone) == 0

    stopped = runs.make_run(tmp_path / "stopped", model=model, plan=plan)
    stopped.stop.touch()
    assert runs.train_here(stopped) == EXIT_STOPPED
    assert rungs(stopped) == rungs(alone)
    stopped.stop.unlink()
    stopped.events.unlink()
    assert runs.train_here(stopped) == 0

    assert rungs(stopped) == []
    assert sha256_of(stopped.output / RESULT["lora"]) == sha256_of(alone.output / RESULT["lora"])


@pytest.mark.slow
def test_memory_that_not_even_the_last_rung_fits_ends_the_run_with_numbers_and_a_way_out(
    tmp_path: Path, model: Path, memory: Memory
) -> None:
    memory.limit_bytes = 1000
    estimate = MemoryEstimate(items={}, total_bytes=3 * GIB, budget_bytes=4 * GIB)
    plan = plans.plan(**settings("lora", tokens_per_micro_step=58, memory=estimate))
    directory = runs.make_run(tmp_path, model=model, plan=plan)
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    told = result.failure
    assert told is not None
    assert (told.code, told.category, told.retryable) == ("out_of_memory", Category.OUT_OF_MEMORY, True)
    assert told.message == (
        "Memory ran out at the canary step before training with everything given up that could be: 29 tokens per "
        "micro-step (the longest row has 29), full activation checkpointing. The last request was for 2.50 GiB. The "
        "plan predicted 3.0 GiB of 4.0 GiB free."
    )
    assert "max_seq_length" in str(told.hint)
    assert "qlora" in str(told.hint)
    assert rungs(directory) == [(29, "none"), (29, "selective"), (29, "mlp"), (29, "full")]


def test_an_evaluation_that_memory_ends_is_repeated_in_smaller_pieces(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans.plan(tokens_per_micro_step=190, lora=plans.lora(dropout=0.1), rows_per_step=1, total_steps=8)
    rows = {"rows": runs.chat_rows(8), "validation": runs.chat_rows(8, offset=40)}
    roomy = runs.make_run(tmp_path / "roomy", model=model, plan=plan, **rows)
    assert runs.train_here(roomy) == 0
    pack = evaluate.pack

    def pack_if_it_fits(*args: Any, **named: Any) -> Any:
        batch = pack(*args, **named)
        if batch.rows and batch.tokens > 60:
            raise torch.OutOfMemoryError("out of memory")
        return batch

    monkeypatch.setattr(evaluate, "pack", pack_if_it_fits)
    tight = runs.make_run(tmp_path / "tight", model=model, plan=plan, **rows)
    assert runs.train_here(tight) == 0
    assert rungs(tight) == [(95, "none"), (47, "none")]
    assert sum("while evaluating after step 0" in event["message"] for event in runs.events(tight)) == 2
    for name in ("train_loss", "valid_loss"):  # dropout is on again after the evaluation that was cut off
        points = [[point.get(name) for point in runs.metrics(run)] for run in (roomy, tight)]
        curves = [[value for value in values if value is not None] for values in points]
        assert curves[1] == pytest.approx(curves[0], rel=1e-5)


class OneOfTwo(RunContext):
    """A process whose peer runs out of memory at the first look."""

    looks = 0

    def agree(self, wish: bool) -> bool:
        OneOfTwo.looks += 1
        return wish or OneOfTwo.looks == 1


def test_processes_go_down_together_even_when_only_one_ran_out(tmp_path: Path, model: Path) -> None:
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(tokens_per_micro_step=190))
    run = prepare(directory.request(), directory)
    progress = TrainState()
    learner = Learner(load_model(model, plan=run.plan, device=run.device))
    ladder = MemoryLadder(OneOfTwo(**run.__dict__), learner, progress=progress)
    tried: list[int] = []
    undone: list[int] = []

    def work() -> str:
        tried.append(progress.token_budget)
        return "done"

    found = ladder.descend_until_it_fits(work, doing="here", has_backward=True, undo=lambda: undone.append(len(tried)))
    assert found == "done"
    assert (tried, undone) == ([190, 95], [1])
