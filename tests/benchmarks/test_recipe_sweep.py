"""The recipe benchmark: its points and its regret, and one sweep with a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.recipe.sweep import AUTO, Point, Record, points, regret, render
from benchmarks.recipe.tasks import docstrings
from tests.tiny_model import build_tiny_model

REPOSITORY = Path(__file__).parents[2]


def record(point: Point, loss: float, *, seed: int = 0) -> Record:
    numbers = {"learning_rate": 1e-4, "rank": 8}
    return {"task": "t", "point": point.name, "seed": seed, "held_out_loss": loss, **numbers}


def test_the_sweep_is_a_cross_through_what_the_rules_choose() -> None:
    assert points([0.5, 1, 2], [4]) == [AUTO, Point(0.5), Point(2), Point(rank=4)]
    assert AUTO.spec(seed=1).hyperparameters.learning_rate_multiplier == 1
    assert AUTO.spec(seed=1).lora.rank == "auto"
    assert Point(rank=4).spec(seed=1).lora.rank == 4


def test_regret_is_what_the_best_of_the_sweep_would_have_saved() -> None:
    records = [record(AUTO, 2.0), record(AUTO, 2.2, seed=1), record(Point(2), 2.0), record(Point(2), 2.0, seed=1)]
    assert regret(records) == pytest.approx(0.05)
    assert "Regret of auto: 5.00%" in render(records)
    assert regret(records[:2]) == 0
    assert regret(records[2:]) is None


def test_no_module_is_on_both_sides() -> None:
    training, held_out = docstrings(30, 12)
    assert (len(training), len(held_out)) == (30, 12)
    assert not {str(row) for row in training} & {str(row) for row in held_out}


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_stopped_and_reports(tmp_path: Path) -> None:
    model, folder = build_tiny_model(tmp_path / "model").resolve(), tmp_path / "bench"
    sizes = {"training_rows": 20, "held_out_rows": 8}
    earlier = {**record(AUTO, 99.0), "task": "docstrings", "model": str(model), **sizes}
    folder.mkdir()
    (folder / "results.jsonl").write_text(json.dumps(earlier) + "\n")
    command = [sys.executable, "-m", "benchmarks.recipe", "--model", str(model), "--folder", str(folder)]
    command += ["--training-rows", "20", "--held-out-rows", "8", "--tasks", "docstrings"]
    command += ["--seeds", "0", "--ranks", "", "--multipliers", "4"]
    told = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    assert "docstrings, auto, seed 0" not in told, "a finished run was made again"
    assert "docstrings, rate x 4, rank auto, seed 0: held-out loss" in told
    assert "| rate x 4, rank auto |" in told
    assert "Regret of auto:" in told
    assert "Regret of auto: 0.00%" not in told
