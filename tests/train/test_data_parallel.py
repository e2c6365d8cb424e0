"""Processes that each hold the whole model: together they train what one would have trained alone."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.tiny_model import build_tiny_model
from tests.train import gang, runs
from worker.rundir import RunDirectory

FILES = {"lora": "adapter_model.safetensors", "full": "model.safetensors"}
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
        plan = runs.plan(**{**values, **changes})
        make_rows = runs.preference_rows if plan.objective == "dpo" else runs.chat_rows
        return runs.make_run(root / name, model=model, plan=plan, rows=make_rows(24), validation=make_rows(5))

    kinds: dict[str, dict[str, object]] = {
        "lora": {"method": "lora"},
        "full": {"method": "full"},
        "few rows": {"method": "lora", "rows_per_step": 2, "total_steps": 8},
    }
    made: dict[str, RunDirectory] = {}
    jobs: dict[str, gang.Job] = {}

    def add(name: str, kind: str, *, processes: int = 2, job: gang.Job | None = None, **changes: object) -> None:
        made[name] = make(name, processes=processes, **{**kinds[kind], **changes})
        jobs[name] = {"run": str(made[name].root), "processes": processes, "bucket_bytes": BUCKET_BYTES, **(job or {})}

    add("lora", "lora")
    add("full", "full")
    add("few rows", "few rows", processes=3)
    add("memory ends", "full", job={"memory_ends_in_backward": 6})
    codes = gang.train_all(list(jobs.values()))
    for name, ended in zip(jobs, codes, strict=True):
        assert set(ended) == {0}, (name, made[name].log.read_text())
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


@pytest.mark.parametrize("name", ["lora", "full", "few rows", "memory ends"])
def test_weights_and_metrics_are_those_of_one_process(trained: Trained, name: str) -> None:
    kind = "full" if name == "memory ends" else name

    assert largest_difference(trained.runs[name], trained.alone[kind], "full" if kind == "full" else "lora") < 1e-6
    for one, other in zip(curves(trained.runs[name]), curves(trained.alone[kind]), strict=True):
        assert [value for value in one if value is not None] == pytest.approx(
            [value for value in other if value is not None], rel=1e-5
        )


def test_memory_that_ends_in_one_process_while_sums_are_under_way_shrinks_the_step_of_both(trained: Trained) -> None:
    messages = [event["message"] for event in runs.events(trained.runs["memory ends"])]
    assert sum("Memory ran out at step" in message for message in messages) == 1
