"""Processes that each hold the whole model: together they train what one would have trained alone."""

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.train.processes import gang
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train.checkpoints.state import draw_apart, load_progress
from tunesmith.worker.train.loop.reference import REFERENCE_FILE

pytestmark = pytest.mark.timeout(900)  # all runs of the file are trained in front of its first test

FILES = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
LIMIT = 1e-6  # of a weight's difference; rates are 1e-3, so a step that differed would show a thousand times as much
BUCKET_BYTES = 8192  # several buckets, each of a few of the tiny model's tensors


@dataclass
class Trained:
    """Every run of this file, trained once; `alone` by what was trained, in one process."""

    runs: dict[str, RunDirectory]
    alone: dict[str, RunDirectory]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Trained:
    root = tmp_path_factory.mktemp("parallel")

    def make(name: str, *, processes: int, **changes: object) -> RunDirectory:
        # Small micro-steps, so that a step has several and an uneven number of them per process.
        values = {"tokens_per_micro_step": 64, "learning_rate": 1e-3, "world_size": processes}
        plan = plans.plan(**{**values, **changes})
        make_rows = runs.preference_rows if plan.objective == "dpo" else runs.chat_rows
        return runs.make_run(root / name, model=model, plan=plan, rows=make_rows(24), validation=make_rows(5))

    kinds: dict[str, dict[str, object]] = {
        "lora": {"method": "lora"},
        "full": {"method": "full"},
        "few rows": {"method": "lora", "rows_per_step": 2, "total_steps": 8},
    }
    kinds["dpo"] = {"method": "lora", "objective": "dpo", "beta": 0.1, "checkpoint_interval_steps": 2, "epochs": 8}
    dropout = {"lora": plans.lora(dropout=0.2), "checkpoint_interval_steps": 2, "epochs": 8}
    made: dict[str, RunDirectory] = {}
    jobs: dict[str, gang.Job] = {}

    def add(name: str, kind: str, *, processes: int = 2, job: gang.Job | None = None, **changes: object) -> None:
        made[name] = make(name, processes=processes, **{**kinds[kind], **changes})
        jobs[name] = {"run": str(made[name].root), "processes": processes, "bucket_bytes": BUCKET_BYTES, **(job or {})}

    add("lora", "lora")
    add("full", "full")
    add("few rows", "few rows", processes=3)
    add("dropout", "lora", **dropout)
    add("dropout, killed", "lora", job={"kill_at_step": 3}, **dropout)
    add("dpo", "dpo")
    add("dpo, killed", "dpo", job={"kill_at_step": 3})
    add("dpo, tight", "dpo", job={"tokens_that_fit": 70})
    add("memory ends", "full", job={"memory_ends_in_backward": 6})
    killed = ("dropout, killed", "dpo, killed")
    for name in killed:
        jobs[f"{name}, goes on"] = {"run": str(made[name].root), "bucket_bytes": BUCKET_BYTES}
    codes = dict(zip(jobs, gang.train_all(list(jobs.values())), strict=True))
    assert [codes.pop(name) for name in killed] == [[-signal.SIGKILL] * 2] * 2
    assert set(map(tuple, codes.values())) <= {(0, 0), (0, 0, 0)}, codes
    alone = {kind: make(f"{kind} alone", processes=1, **changes) for kind, changes in kinds.items()}
    for directory in alone.values():
        assert runs.train_here(directory) == 0
    return Trained(made, alone)


def largest_difference(one: RunDirectory, other: RunDirectory, method: str) -> float:
    weights = [load_file(directory.output / FILES[method]) for directory in (one, other)]
    assert set(weights[0]) == set(weights[1])
    return max(float((value - weights[1][name]).abs().max()) for name, value in weights[0].items())


def curves(directory: RunDirectory) -> list[list[float | None]]:
    names = ("step", "train_loss", "grad_norm", "valid_loss", "trained_tokens", "supervised_tokens")
    return [[point.get(name) for name in names] for point in runs.metrics(directory)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "full", "few rows", "memory ends", "dpo"])
def test_weights_and_metrics_are_those_of_one_process(trained: Trained, name: str) -> None:
    kind = "full" if name == "memory ends" else name

    assert largest_difference(trained.runs[name], trained.alone[kind], "full" if kind == "full" else "lora") < LIMIT
    for one, other in zip(curves(trained.runs[name]), curves(trained.alone[kind]), strict=True):
        assert [value for value in one if value is not None] == pytest.approx(
            [value for value in other if value is not None], rel=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "full", "dpo"])
def test_one_process_asks_for_samples_while_the_others_wait(trained: Trained, name: str) -> None:
    asked = [asked_at(directory) for directory in (trained.runs[name], trained.alone[name])]
    assert asked[0] == asked[1] != []


def asked_at(directory: RunDirectory) -> list[int]:
    return [event["data"]["step"] for event in runs.events(directory) if "samples" in event["data"]]


@pytest.mark.slow
def test_memory_that_ends_in_one_process_while_sums_are_under_way_shrinks_the_step_of_both(trained: Trained) -> None:
    told = messages(trained.runs["memory ends"])
    assert sum("Memory ran out at step" in message for message in told) == 1


def messages(directory: RunDirectory) -> list[str]:
    return [event["message"] for event in runs.events(directory)]


@pytest.mark.slow
def test_preference_pairs_are_read_once_a_job_and_not_again_when_it_goes_on(trained: Trained) -> None:
    killed, undisturbed = trained.runs["dpo, killed"], trained.runs["dpo"]
    assert any("Continuing from the checkpoint" in message for message in messages(killed))
    for directory in (killed, undisturbed):  # the training rows and the held-out ones
        assert sum("Reading what the untrained model" in message for message in messages(directory)) == 2
    results = [sha256_of(directory.output / FILES["lora"]) for directory in (killed, undisturbed)]
    assert results[0] == results[1]
    kept = load_file(max(undisturbed.checkpoints.glob("step-*")) / REFERENCE_FILE)
    assert sorted(map(len, kept.values())) == [5, 24]


@pytest.mark.slow
def test_memory_that_ends_in_one_process_while_it_reads_pairs_makes_both_read_smaller_pieces(trained: Trained) -> None:
    told = [message for message in messages(trained.runs["dpo, tight"]) if "Memory ran out" in message]
    assert told[0].startswith("Memory ran out while reading what the untrained model thinks of each preference pair")


def random_states(directory: RunDirectory) -> list[torch.Tensor]:
    newest = max(directory.checkpoints.glob("step-*"))
    return [load_file(newest / name)["torch"] for name in ("random.safetensors", "random-00001.safetensors")]


@pytest.mark.slow
def test_processes_start_from_the_same_adapter_and_drop_other_units(trained: Trained) -> None:
    states = random_states(trained.runs["dropout"])
    assert not torch.equal(*states)
    assert not torch.equal(*random_states(trained.runs["lora"]))  # no number is drawn there: they differ from the start
    assert largest_difference(trained.runs["lora"], trained.alone["lora"], "lora") < 1e-6


@pytest.mark.slow
def test_a_run_with_dropout_that_was_killed_ends_with_the_bytes_of_the_undisturbed_one(trained: Trained) -> None:
    told = messages(trained.runs["dropout, killed"])
    assert any("Continuing from the checkpoint" in message for message in told)
    results = [sha256_of(trained.runs[name].output / FILES["lora"]) for name in ("dropout", "dropout, killed")]
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_process_that_the_checkpoint_does_not_know_draws_numbers_of_its_own(trained: Trained) -> None:
    folder = max(trained.runs["dropout"].checkpoints.glob("step-*"))
    drawn = []
    for rank in (0, 1, 2, 3):
        load_progress(folder, seed=7, rank=rank)
        drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == 4


def test_the_first_process_draws_what_a_run_of_one_process_draws() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draw_apart(seed=3, rank=0, step=0)
    assert torch.equal(torch.get_rng_state(), before)
    draw_apart(seed=3, rank=1, step=0)
    assert not torch.equal(torch.get_rng_state(), before)
