"""A micro-step never waits for the device: no value is read back in its forward and backward pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.models.test_families import DYNAMIC, LONG_ROPE, rows_of, with_rope
from tunesmith.tuning.plan import Attention
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.attention.kernels import KERNELS, blocked
from tunesmith.worker.train.attention.segments import Segments
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.packing import pack
from tunesmith.worker.train.data.rows import Rows, load_rows
from tunesmith.worker.train.loop.loop import StepGradients
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import LossObjective, preference, supervised
from tunesmith.worker.train.models.model import Learner, enable_checkpointing, load_model, load_tokenizer
from tunesmith.worker.train.optim.optimizer import MasterOptimizer
from tunesmith.worker.train.session import prepare

# Operators whose result, or the size of whose result, the host needs before it can go on.
READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_consecutive"}
CPU, META = torch.device("cpu"), torch.device("meta")


class Reads(TorchDispatchMode):
    """Collects the operators that read values from the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::").split(".")[0]
        by_mask = name in {"index", "index_put_"} and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in READS or by_mask:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def learner(folder: Path, *, device: torch.device, method: str, attention: Attention, checkpointing: str) -> Learner:
    plan = plans.plan(method="lora" if method != "full" else "full")
    model = load_model(folder, plan=plan, device=CPU)
    if plan.lora is not None:
        model = attach_adapter(model, plan.lora, continue_from=None, seed=3)
    model = model.to(device)
    if method == "fused lora":
        assert fuse(model)
    enable_checkpointing(model, checkpointing)
    return Learner(model, attention=attention).train()


def pairs_or_rows(folder: Path, root: Path, *, objective: str) -> Rows:
    rows = runs.chat_rows(5) if objective == "supervised" else runs.preference_rows(5)
    file = runs.write_rows(root / "rows.jsonl", rows)
    loaded = load_rows(file, tokenizer=load_tokenizer(folder), objective=objective, max_sequence_length=256)
    if objective == "supervised":
        return loaded
    return Rows(**{**vars(loaded), "reference": np.zeros((len(loaded), 2), dtype=np.float32)})


OBJECTIVES = {"supervised": supervised(), "dpo": preference(beta=0.1)}


@pytest.mark.mostly_slow(rows=6)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("method", ["full", "lora", "fused lora"])
@pytest.mark.parametrize(
    ("device", "attention", "checkpointing"),
    [(META, "sdpa", "none"), (META, "torch_flash", "selective"), (CPU, "blocked", "none"), (CPU, "blocked", "full")],
    ids=["no values, sdpa", "no values, flash", "blocked", "blocked, recomputed"],
)
def test_a_micro_step_reads_no_value_from_the_device(
    folder: Path,
    tmp_path: Path,
    objective: str,
    method: str,
    device: torch.device,
    attention: Attention,
    checkpointing: str,
) -> None:
    """On the meta device there are no values at all: whoever asks for one gets an error."""
    rows = pairs_or_rows(folder, tmp_path, objective=objective)
    trained = learner(folder, device=device, method=method, attention=attention, checkpointing=checkpointing)
    batch = pack(range(len(rows)), rows, device=device)
    with Reads() as reads:
        sums = OBJECTIVES[objective].sums(trained, batch)
        (sums.loss / 7).backward()
    assert reads.found == []
    assert all(value.grad is not None for _, value in trained.trainable())


def test_a_kernel_that_looks_at_the_bounds_would_be_caught(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looking(*states: torch.Tensor, segments: Segments, **named: Any) -> torch.Tensor:
        assert int(segments.cumulative[-1]) == len(states[0])
        return blocked(*states, segments=segments, **named)

    monkeypatch.setitem(KERNELS, "blocked", looking)
    rows = pairs_or_rows(folder, tmp_path, objective="supervised")
    trained = learner(folder, device=CPU, method="full", attention="blocked", checkpointing="none")
    with Reads() as reads:
        supervised().sums(trained, pack([0, 1], rows, device=CPU))
    assert reads.found == ["_local_scalar_dense"] * 2


@pytest.mark.parametrize(
    ("parameters", "lengths", "expected"),
    [(LONG_ROPE, (9, 90, 12, 70, 5), 0), (DYNAMIC, (9, 12, 5), 2), (DYNAMIC, (9, 90, 12, 11, 70, 5), 10)],
    ids=["long rope", "dynamic, short rows", "dynamic, long rows"],
)
def test_dynamic_rope_alone_reads_positions_twice_for_each_stretch_of_rows(
    tmp_path: Path, parameters: dict[str, Any], lengths: tuple[int, ...], expected: int
) -> None:
    """transformers compares the largest position on the host; rows within the original context are one stretch."""
    model = with_rope(tmp_path / "model", **parameters)
    trained = learner(model, device=CPU, method="fused lora", attention="blocked", checkpointing="none")
    batch = pack(range(len(lengths)), rows_of(*lengths), device=CPU)
    with Reads() as reads:
        supervised().sums(trained, batch).loss.backward()
    assert reads.found == ["_local_scalar_dense"] * expected


@pytest.mark.parametrize("objective", ["supervised", "dpo"])
def test_a_step_reads_as_many_values_with_one_micro_step_as_with_many(
    folder: Path, tmp_path: Path, objective: str
) -> None:
    counts = []
    for budget in (20, 1000):
        plan = plans.plan(objective=objective, beta=0.1, tokens_per_micro_step=budget)
        rows = runs.chat_rows(8) if objective == "supervised" else runs.preference_rows(8)
        directory = runs.make_run(tmp_path / str(budget), model=folder, plan=plan, rows=rows)
        run = prepare(directory.request(), directory)
        trained = learner(folder, device=CPU, method="fused lora", attention="blocked", checkpointing="none")
        counts.append(reads_of_one_step(run, trained, OBJECTIVES[objective], tmp_path / str(budget)))
    assert counts[0] == counts[1] <= 4


def reads_of_one_step(run: Any, trained: Learner, objective: LossObjective, root: Path) -> int:
    if not objective.per_token:
        reference = np.zeros((len(run.rows), 2), dtype=np.float32)
        object.__setattr__(run, "rows", Rows(**{**vars(run.rows), "reference": reference}))
    masters = MasterOptimizer(trained.trainable(), plan=run.plan)
    progress = TrainState()
    ladder = MemoryLadder(run, trained, progress=progress)
    feed = runs.feed_of(run)
    gradients = StepGradients(run, trained, masters, objective=objective, progress=progress, ladder=ladder, feed=feed)
    with Reads() as reads:
        assert gradients.compute(1).is_finite
    return len(reads.found)
