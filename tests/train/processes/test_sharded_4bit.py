"""QLoRA over a base that no process holds whole: each keeps its part, and together they train what one would have."""

import gc
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.processes import gang
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory
from tunesmith.worker.train.adapters.adapter import attach_adapter
from tunesmith.worker.train.adapters.fuse import fuse
from tunesmith.worker.train.kernels.loss import summed_cross_entropy
from tunesmith.worker.train.models import sharded_base
from tunesmith.worker.train.models.model import Learner, enable_checkpointing, load_model
from tunesmith.worker.train.models.model_trial import _batch
from tunesmith.worker.train.models.sharded_base import ALIGNMENT_BYTES, ShardedBase, _is_4_bit, _Layer, _places

pytestmark = pytest.mark.timeout(900)  # all runs of the file are trained in front of its first test

RESULT = "adapter_model.safetensors"
LIMIT = 1e-6  # of a weight's difference; rates are 1e-3, so a step that differed would show a thousand times as much
LAYERS = 5  # three in one buffer, two in the other
CPU = torch.device("cpu")


@dataclass
class Trained:
    """Every run of this file, trained once; `whole` with a base in each process, `alone` in one process."""

    shared: dict[str, RunDirectory]
    whole: RunDirectory
    alone: dict[str, RunDirectory]
    codes: dict[str, list[int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"), layers=LAYERS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Trained:
    root = tmp_path_factory.mktemp("sharded")

    def make(name: str, *, processes: int, sharded: bool = True, **changes: object) -> RunDirectory:
        # Small micro-steps, so that a step has several and an uneven number of them per process.
        values = {"method": "qlora", "tokens_per_micro_step": 64, "learning_rate": 1e-3, "epochs": 1}
        plan = plans.plan(**{**values, **changes, "world_size": processes, "sharded_base": sharded})
        make_rows = runs.preference_rows if plan.objective == "dpo" else runs.chat_rows
        return runs.make_run(root / name, model=model, plan=plan, rows=make_rows(24), validation=make_rows(5))

    kinds: dict[str, dict[str, object]] = {
        "two": {},
        "three": {},
        "full": {"activation_checkpointing": "full"},
        "mlp": {"activation_checkpointing": "mlp", "double_quantization": False},
        "row by row": {"packing": False, "objective": "dpo", "beta": 0.1, "rows_per_step": 4, "total_steps": 3},
    }
    dropout = {"lora": plans.lora(dropout=0.2), "precision": "bf16", "checkpoint_interval_steps": 2, "epochs": 2}
    shared = {name: make(name, processes=3 if name == "three" else 2, **kind) for name, kind in kinds.items()}
    shared |= {name: make(name, processes=2, **dropout) for name in ("undisturbed", "killed", "widowed")}
    whole = make("whole", processes=2, sharded=False)
    jobs: dict[str, gang.Job] = {
        name: {"run": str(run.root), "processes": run.request().plan.world_size} for name, run in shared.items()
    }
    jobs["two"]["weighs"] = jobs["three"]["weighs"] = True
    jobs["killed"]["kill_at_step"] = jobs["widowed"]["kill_at_step"] = 3
    jobs["widowed"]["kill_only"] = 1
    jobs["killed, goes on"] = {"run": str(shared["killed"].root)}
    jobs["whole"] = {"run": str(whole.root), "weighs": True}
    codes = dict(zip(jobs, gang.train_all(list(jobs.values())), strict=True))
    alone = {
        name: make(f"{name} alone", processes=1, sharded=False, **kind)
        for name, kind in kinds.items()
        if name not in ("three", "full")
    }
    for directory in alone.values():
        assert runs.train_here(directory) == 0
    return Trained(shared, whole, alone, codes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "three", "full", "mlp", "row by row"])
def test_adapters_and_metrics_over_a_shared_base_are_those_of_one_process(trained: Trained, name: str) -> None:
    directory, alone = trained.shared[name], trained.alone.get(name, trained.alone["two"])
    assert set(trained.codes[name]) == {0}, directory.log.read_text()
    got, wanted = load_file(directory.output / RESULT), load_file(alone.output / RESULT)
    assert set(got) == set(wanted)
    for key, value in wanted.items():
        assert (got[key] - value).abs().max() < LIMIT, key
    points = [runs.metrics(run) for run in (alone, directory)]
    for one, two in zip(*points, strict=True):
        names = ("step", "train_loss", "grad_norm", "valid_loss", "trained_tokens", "supervised_tokens")
        compared = [known for known in names if one.get(known) is not None]
        assert [two[known] for known in compared] == pytest.approx([one[known] for known in compared], rel=1e-5)


@pytest.mark.slow
def test_sharing_the_base_changes_no_bit_of_what_two_processes_learn(trained: Trained) -> None:
    assert sha256_of(trained.shared["two"].output / RESULT) == sha256_of(trained.whole.output / RESULT)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "processes"), [("two", 2), ("three", 3)])
def test_between_layers_a_process_holds_its_share_and_two_layers(trained: Trained, name: str, processes: int) -> None:
    told = next(event["data"] for event in runs.events(trained.shared[name]) if "shared out" in event["message"])
    held = held_bytes(trained.shared[name])
    assert len(held) == processes
    for found in held:
        besides = found - told["share_bytes"] - told["buffer_bytes"]  # random states, and nothing of the base
        assert 0 <= besides < 16384
    filled_up = ALIGNMENT_BYTES * LAYERS * (7 * 3 + processes)  # three tensors of each of seven weights
    assert told["share_bytes"] <= (min(held_bytes(trained.whole)) + filled_up) / processes
    assert told["buffer_bytes"] * LAYERS == 2 * told["whole_bytes"]


def held_bytes(directory: RunDirectory) -> list[int]:
    return [int(file.read_text()) for file in directory.root.glob("bytes-*")]


@pytest.mark.slow
def test_a_killed_run_over_a_shared_base_goes_on_to_the_bytes_of_the_undisturbed_one(trained: Trained) -> None:
    assert trained.codes["killed"] == [-signal.SIGKILL] * 2
    assert trained.codes["killed, goes on"] == [0, 0]
    told = [event["message"] for event in runs.events(trained.shared["killed"])]
    assert any("Continuing from the checkpoint" in message for message in told)
    results = [sha256_of(trained.shared[name].output / RESULT) for name in ("undisturbed", "killed")]
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_process_that_loses_the_other_says_so_and_ends(trained: Trained) -> None:
    assert trained.codes["widowed"] == [EXIT_FAILED, -signal.SIGKILL]
    assert trained.shared["widowed"].read_rank_failures()[0].code == "process_lost"


class Everyone:
    """The processes of a run inside of this one: each loads the model in turn, and gathers from all that have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
        self.bases: list[ShardedBase] = []
        distributed = torch.distributed
        monkeypatch.setattr(distributed, "new_group", lambda **_: None)
        monkeypatch.setattr(distributed, "get_world_size", lambda: processes)
        monkeypatch.setattr(distributed, "get_rank", lambda: len(self.bases))
        monkeypatch.setattr(sharded_base, "all_gather", self._gather)
        self.processes = processes

    def load(self, folder: Path, **changes: object) -> list[Any]:
        """Every process's model."""
        plan = plans.plan(method="qlora", world_size=self.processes, sharded_base=True, **changes)
        models = []
        for _ in range(self.processes):
            models.append(load_model(folder, plan=plan, device=CPU))
            self.bases.append(base_of(models[-1]))
        return models

    def _gather(self, whole: torch.Tensor, share: torch.Tensor, **_: object) -> None:
        places = [layer.share.data_ptr() for base in self.bases for layer in base._layers]
        index = places.index(share.data_ptr()) % LAYERS
        torch.cat([base._layers[index].share for base in self.bases], out=whole)


def base_of(model: torch.nn.Module) -> ShardedBase:
    found = sharded_base.sharded_base(model)
    assert found is not None
    return found


def states_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Packed weights and scales by name."""
    for name, module in model.named_modules():
        if _is_4_bit(module):
            for number, (owner, attribute) in enumerate(_places(module.weight)):
                yield f"{name} {number}", getattr(owner, attribute)


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize(
    ("processes", "double_quantization"),
    [(1, True), (2, False), (3, True), pytest.param(7, True, marks=pytest.mark.slow)],
)
def test_the_parts_of_any_number_of_processes_make_up_every_layer(
    monkeypatch: pytest.MonkeyPatch, model: Path, processes: int, double_quantization: bool
) -> None:
    plan = plans.plan(method="qlora", double_quantization=double_quantization)
    wanted = dict(states_of(load_model(model, plan=plan, device=CPU)))
    everyone = Everyone(monkeypatch, processes)
    shared = everyone.load(model, double_quantization=double_quantization)[-1]
    for index, layer in enumerate(shared.model.layers):
        base_of(shared)._bring(index, following=index + 1)
        assert list(states_of(layer))
        for name, value in states_of(layer):
            assert torch.equal(value, wanted[f"model.layers.{index}.{name}"]), (index, name)
    sizes = {layer.share.numel() for base in everyone.bases for layer in base._layers}
    assert all(size % ALIGNMENT_BYTES == 0 for size in sizes)


@pytest.mark.slow
def test_loading_never_holds_more_than_a_layer_beside_the_share(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    gc.collect()
    before, held = gang.bytes_of_8_bit_tensors(), []
    keep_part = _Layer.keep_part

    def noted(layer: _Layer, **places: int) -> None:
        if len(held) < LAYERS:  # the first process's, each when it is whole for the last time
            held.append(gang.bytes_of_8_bit_tensors() - before - sum(one.share.numel() for one in layers))
            layers.append(layer)
        keep_part(layer, **places)

    layers: list[_Layer] = []
    monkeypatch.setattr(_Layer, "keep_part", noted)
    everyone = Everyone(monkeypatch, 2)
    everyone.load(model)
    assert len(held) == LAYERS
    assert max(held) <= everyone.bases[0].whole_bytes / LAYERS


def adapted(model: Any) -> Any:
    return attach_adapter(model, plans.lora(), continue_from=None, seed=3)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    """Of the adapters, once all of them have one: B starts at zero, and with it the gradient of A."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.01)
    rows = [torch.arange(3, 40), torch.arange(50, 60)]
    Learner(model)(_batch(rows), summed_cross_entropy).loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


def recomputing(model: Any) -> None:
    enable_checkpointing(model.get_base_model(), "full")


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("prepare", [lambda _: None, fuse, recomputing], ids=["PEFT's own", "fused", "recomputed"])
def test_every_way_through_a_layer_reads_its_own_bytes(
    monkeypatch: pytest.MonkeyPatch, model: Path, prepare: Callable[[Any], object]
) -> None:
    whole = adapted(load_model(model, plan=plans.plan(method="qlora"), device=CPU))
    shared = adapted(Everyone(monkeypatch, 3).load(model)[0])
    for one in (whole, shared):
        prepare(one)
    wanted, got = gradients(whole), gradients(shared)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert value.abs().max() > 0, name
        assert torch.equal(got[name], value), name


def test_a_backward_pass_out_of_order_is_an_error_and_no_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    base = base_of(Everyone(monkeypatch, 2).load(model)[0])
    base._before_backward(LAYERS - 1)
    base._before_backward(LAYERS - 2)
    with pytest.raises(RuntimeError, match="the backward pass of layer 1 followed that of layer 3"):
        base._before_backward(1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"lora": plans.lora(use_dora=True)}, "DoRA and merging need it whole"), ({}, "and there is one")],
)
def test_what_needs_the_whole_base_is_refused_before_it_is_loaded(
    tmp_path: Path, model: Path, changes: dict[str, Any], said: str
) -> None:
    plan = plans.plan(method="qlora", sharded_base=True, **changes)
    directory = runs.make_run(tmp_path, model=model, plan=plan)
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "sharding_not_available"
    assert said in result.failure.message
