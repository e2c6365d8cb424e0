"""Full fine-tuning that is shared out by ZeRO gives what one process gives, survives SIGKILL, and saves one model."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.processes import gang
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory
from tunesmith.worker.train.checkpoints import writer as checkpoint_writer
from tunesmith.worker.train.checkpoints.state import Snapshot, newest_whole, verify

pytestmark = pytest.mark.timeout(900)  # all runs of the file are trained in front of its first test

RESULT = "model.safetensors"
WAYS = {
    "stage 1": {"zero_stage": 1},
    "stage 2": {"zero_stage": 2},
    "stage 3": {"zero_stage": 3, "activation_checkpointing": "full"},
    "stage 3, offloaded": {"zero_stage": 3, "offload_optimizer": True},
    "alone, offloaded": {"zero_stage": 2, "offload_optimizer": True, "world_size": 1},
}


@dataclass
class Trained:
    """Every run of this file, trained once."""

    alone: RunDirectory
    ways: dict[str, RunDirectory]
    undisturbed: dict[int, RunDirectory]
    killed: dict[int, RunDirectory]
    fewer: RunDirectory
    short: RunDirectory
    adapters: list[RunDirectory]
    blocked: RunDirectory
    preferences: list[RunDirectory]
    stalled: list[RunDirectory]
    codes: dict[str, list[int]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def preference_rows(count: int) -> list[dict[str, object]]:
    return [
        {
            "input": {"messages": row["messages"][:1]},
            "preferred_output": row["messages"][1:],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for row in runs.chat_rows(count)
    ]


def contradicting_rows(count: int) -> list[dict[str, object]]:
    """Held-out rows that get worse soon after training has begun."""
    answer = {"role": "assistant", "content": "Paris France dog"}
    return [{"messages": [row["messages"][0], answer]} for row in runs.chat_rows(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Trained:
    root = tmp_path_factory.mktemp("zero")

    def make(name: str, *, resume_from: str | None = None, **changes: object) -> RunDirectory:
        # Small micro-steps, so that a step has several and an uneven number of them per process.
        values = {"method": "full", "world_size": 2, "tokens_per_micro_step": 64, "learning_rate": 1e-3}
        values |= {"weight_decay": 0.1, "epochs": 1, "checkpoint_interval_steps": 2, "evaluation_interval_steps": 3}
        plan = plans.plan(**{**values, **changes})
        rows = preference_rows(27) if plan.objective == "dpo" else runs.chat_rows(24) + contradicting_rows(3)
        held_out = {"validation": rows[24:], "resume_from": resume_from}
        return runs.make_run(root / name, model=model, plan=plan, rows=rows[:24], **held_out)

    ways = {name: make(name, **changes) for name, changes in WAYS.items()}
    resumed = {"precision": "bf16", "rows_per_step": 4}
    undisturbed = {stage: make(f"undisturbed {stage}", zero_stage=stage, **resumed) for stage in (2, 3)}
    killed = {stage: make(f"killed {stage}", zero_stage=stage, **resumed) for stage in (2, 3)}
    source = undisturbed[3].checkpoints / "step-00000004"
    fewer = make("fewer", resume_from=str(source), zero_stage=1, world_size=1, **resumed)
    short, blocked = make("short", zero_stage=2), make("blocked", method="lora")
    # A file where the second process wants to write its part of the first checkpoint, for which the first one waits.
    (blocked.checkpoints / ".part-00001-step-00000002.aside").write_text("in the way")
    jobs: list[gang.Job] = [{"run": str(run.root), "processes": run.request().plan.world_size} for run in ways.values()]
    for stage in (2, 3):
        jobs.append({"run": str(undisturbed[stage].root)})
        jobs.append({"run": str(killed[stage].root), "kill_at_step": 3})
        jobs.append({"run": str(killed[stage].root)})
    adapters = [make(f"adapter {stage}", method="lora", zero_stage=stage) for stage in (0, 3)]
    dpo = {"objective": "dpo", "beta": 0.1}
    preferences = [make(f"preferences {stage}", zero_stage=stage, **dpo) for stage in (0, 3)]
    early = {"epochs": 8, "learning_rate": 2e-2, "evaluation_interval_steps": 1, "early_stopping_patience": 2}
    early["keeps_best_weights"] = True
    stalled = [make(f"stalled {stage}", zero_stage=stage, **early) for stage in (0, 3)]
    jobs += [{"run": str(run.root)} for run in (*adapters, *preferences, *stalled)]
    jobs.append({"run": str(short.root), "tokens_that_fit": 40})
    jobs.append({"run": str(blocked.root)})
    jobs.append({"run": str(fewer.root), "processes": 1})
    codes = dict(zip([Path(job["run"]).parent.name for job in jobs], gang.train_all(jobs), strict=False))

    alone = make("alone", world_size=1)
    assert runs.train_here(alone) == 0
    return Trained(alone, ways, undisturbed, killed, fewer, short, adapters, blocked, preferences, stalled, codes)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_sharded_run_reaches_the_weights_of_a_single_process(trained: Trained, way: str) -> None:
    directory = trained.ways[way]
    assert directory.read_result() is not None, directory.log.read_text()
    wanted, got = load_file(trained.alone.output / RESULT), load_file(directory.output / RESULT)
    assert set(got) == set(wanted)
    for name, value in wanted.items():
        assert (got[name] - value).abs().max() < 1e-5, name
    points = [runs.metrics(run) for run in (trained.alone, directory)]
    assert [point["step"] for point in points[1]] == [0, 1, 2, 3]
    for one, two in zip(*points, strict=True):
        names = ("train_loss", "grad_norm", "valid_loss", "trained_tokens", "supervised_tokens")
        compared = [name for name in names if one.get(name) is not None]
        assert [two[name] for name in compared] == pytest.approx([one[name] for name in compared], rel=1e-5)


@pytest.mark.slow
def test_the_saved_result_is_one_ordinary_model(trained: Trained) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(trained.undisturbed[3].output)
    logits = loaded(torch.arange(1, 20)[None]).logits
    assert logits.isfinite().all()
    manifest = (trained.undisturbed[3].output / "manifest.json").read_text()
    assert '"deepspeed"' in manifest


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_sigkill_and_resume_change_no_bit_of_a_sharded_run(trained: Trained, stage: int) -> None:
    assert "Continuing from the checkpoint" in " ".join(e["message"] for e in runs.events(trained.killed[stage]))
    results = [sha256_of(run.output / RESULT) for run in (trained.undisturbed[stage], trained.killed[stage])]
    assert results[0] == results[1]


@pytest.mark.slow
def test_another_number_of_processes_and_another_stage_go_on_from_the_same_checkpoint(trained: Trained) -> None:
    assert [point["step"] for point in runs.metrics(trained.fewer)] == [5, 6]
    points = [runs.metrics(run)[-1] for run in (trained.undisturbed[3], trained.fewer)]
    assert points[1]["train_loss"] == pytest.approx(points[0]["train_loss"], rel=1e-2)
    assert points[1]["valid_loss"] == pytest.approx(points[0]["valid_loss"], rel=1e-3)


@pytest.mark.slow
def test_an_adapter_over_a_base_that_is_shared_out_is_the_adapter_over_a_whole_one(trained: Trained) -> None:
    whole, shared = (load_file(run.output / "adapter_model.safetensors") for run in trained.adapters)
    assert set(shared) == set(whole)
    for name, value in whole.items():
        assert (shared[name] - value).abs().max() < 1e-5, name


@pytest.mark.slow
def test_preferences_train_through_a_head_that_is_shared_out(trained: Trained) -> None:
    whole, shared = (runs.metrics(run) for run in trained.preferences)
    for one, two in zip(whole, shared, strict=True):
        names = ("train_loss", "grad_norm", "valid_loss", "valid_reward_accuracy")
        compared = [name for name in names if one.get(name) is not None]
        assert [two[name] for name in compared] == pytest.approx([one[name] for name in compared], rel=1e-4)


@pytest.mark.slow
def test_a_sharded_run_that_stops_early_gives_back_its_best_weights(trained: Trained) -> None:
    whole, shared = (run.read_result() for run in trained.stalled)
    assert whole is not None
    assert shared is not None
    assert whole.steps == shared.steps < 24
    assert shared.final_valid_loss == min(p["valid_loss"] for p in runs.metrics(trained.stalled[1])[1:])
    weights = [load_file(run.output / RESULT) for run in trained.stalled]
    for name, value in weights[0].items():
        assert (weights[1][name] - value).abs().max() < 1e-3, name
    newest = newest_whole(trained.stalled[1].checkpoints)
    assert newest is not None
    assert {"best-00000.safetensors", "best-00001.safetensors"} <= {file.name for file in newest.iterdir()}


@pytest.mark.slow
def test_a_process_without_memory_ends_a_sharded_run_soon_and_says_so(trained: Trained) -> None:
    assert trained.codes["short"] == [EXIT_FAILED, EXIT_FAILED]
    said = trained.short.read_rank_failures()
    assert {rank: failure.code for rank, failure in said.items()} == {0: "process_lost", 1: "out_of_memory"}
    assert "max_seq_length" in (said[1].hint or "")


@pytest.mark.slow
def test_nobody_waits_for_the_part_of_a_process_that_failed(trained: Trained) -> None:
    assert trained.codes["blocked"] == [EXIT_FAILED, EXIT_FAILED]
    said = trained.blocked.read_rank_failures()
    assert said[0].code == "process_lost"
    assert said[1].message.startswith("Process 1 of 2 on ")
    assert "FileExistsError" in said[1].message
    assert newest_whole(trained.blocked.checkpoints) is None


@pytest.mark.slow
def test_a_checkpoint_without_every_shard_is_never_loaded(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.undisturbed[3].checkpoints, tmp_path / "checkpoints")
    newest, before = (tmp_path / "checkpoints" / f"step-0000000{step}" for step in (6, 4))
    assert verify(newest).world_size == 2
    assert newest_whole(tmp_path / "checkpoints") == newest
    (newest / "shard-00001.safetensors").unlink()
    assert newest_whole(tmp_path / "checkpoints") == before


def test_there_is_no_manifest_before_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_writer, "PART_SECONDS", 0.1)
    writer = checkpoint_writer.CheckpointWriter(tmp_path, versions={}, rank=0, processes=2)
    writer.write(Snapshot(step=1, tensors={"shard-00000.safetensors": {"a": torch.ones(2)}}), metrics={})
    with pytest.raises(Exception, match="Process 1 did not write its part"):
        writer.wait()
    assert list(tmp_path.iterdir()) == []

    other = checkpoint_writer.CheckpointWriter(tmp_path, versions={}, rank=1, processes=2)
    other.write(Snapshot(step=1, tensors={"shard-00001.safetensors": {"a": torch.ones(2)}}), metrics={})
    other.wait()
    writer.write(Snapshot(step=1, tensors={"shard-00000.safetensors": {"a": torch.ones(2)}}), metrics={})
    writer.wait()
    assert set(verify(tmp_path / "step-00000001").files) == {"shard-00000.safetensors", "shard-00001.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_plan_that_shards_says_what_to_install(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(method="full", zero_stage=2))
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "sharding_not_available"
    assert "pip install --no-build-isolation" in (result.failure.hint or "")
