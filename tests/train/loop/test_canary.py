"""The canary tries the heaviest micro-step of the run before training, and leaves nothing behind but its report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.messages import CanaryReport
from tunesmith.tuning.plan import MemoryEstimate, TimeEstimate
from tunesmith.tuning.planner.rehearsal import Rehearsal
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory
from tunesmith.worker.train.data.order import RowOrder
from tunesmith.worker.train.data.packing import PackedBatch
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop import canary
from tunesmith.worker.train.models.model import Learner

MEMORY = MemoryEstimate(items={"weights": 2**30}, total_bytes=2**30, budget_bytes=2**34)
TIME = TimeEstimate(
    tokens_per_second=500, seconds=100, seconds_low=90, seconds_high=120, micro_step_tokens_per_second=1000
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def reports(directory: RunDirectory) -> list[dict[str, Any]]:
    return [event for event in runs.events(directory) if event["message"].startswith("Canary step")]


def trained(directory: RunDirectory) -> RunDirectory:
    assert runs.train_here(directory) == 0, directory.events.read_text()
    return directory


def test_it_measures_the_heaviest_micro_step_and_says_what_was_predicted(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(memory=MEMORY, time=TIME, total_steps=6, checkpoint_interval_steps=100)
    directory = trained(runs.make_run(tmp_path, model=model, plan=plan))
    report = CanaryReport.model_validate_json(directory.canary.read_bytes())
    (event,) = reports(directory)
    assert json.loads(directory.canary.read_text()) == report.model_dump()
    assert event["data"] == report.model_dump(exclude_none=True)
    assert 0 < report.tokens <= 256
    assert report.tokens_per_second == pytest.approx(report.tokens / report.seconds)
    assert report.speed_ratio == pytest.approx(report.tokens_per_second / 1000)
    assert report.memory_ratio == pytest.approx(report.peak_memory_bytes / 2**30)
    assert report.expected_seconds == pytest.approx(100 / report.speed_ratio)
    assert "predicted 1.0 GiB" in event["message"]
    assert "predicted 1,000" in event["message"]


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("correction", [0.2, 1.0, 3.0])
def test_what_it_measures_replaces_what_earlier_runs_said(tmp_path: Path, model: Path, correction: float) -> None:
    corrected = TIME.model_copy(
        update={
            "tokens_per_second": 500 * correction,
            "seconds": 100 / correction,
            "measured_correction": correction,
            "micro_step_tokens_per_second": 1000 * correction,
        }
    )
    plan = plans.plan(memory=MEMORY, time=corrected, total_steps=6, checkpoint_interval_steps=100)
    report = trained(runs.make_run(tmp_path, model=model, plan=plan)).read_canary()
    assert report is not None
    assert report.expected_seconds == pytest.approx(100 * 1000 / report.tokens_per_second)


@pytest.mark.slow
def test_it_changes_no_bit_of_the_result(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plans.plan(precision="bf16", lora=plans.lora(dropout=0.2), checkpoint_interval_steps=100)
    with_canary = trained(runs.make_run(tmp_path / "with", model=model, plan=plan))
    monkeypatch.setattr(canary, "is_spared", lambda *_: True)
    without = trained(runs.make_run(tmp_path / "without", model=model, plan=plan))
    assert with_canary.canary.exists()
    assert not without.canary.exists()
    name = "adapter_model.safetensors"
    assert sha256_of(with_canary.output / name) == sha256_of(without.output / name)
    losses = [[point["train_loss"] for point in runs.metrics(one)] for one in (with_canary, without)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_resumed_run_needs_no_second_one_unless_its_settings_are_others(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(checkpoint_interval_steps=1, total_steps=4)
    directory = runs.make_run(tmp_path, model=model, plan=plan)
    directory.stop.touch()
    runs.train_here(directory)
    runs.train_here(directory)
    assert len(reports(directory)) == 1
    smaller = directory.request().model_copy(update={"plan": plan.model_copy(update={"tokens_per_micro_step": 128})})
    directory.create(smaller)
    runs.train_here(directory)
    assert len(reports(directory)) == 2


@pytest.mark.slow
def test_lack_of_memory_shows_before_the_first_step_and_takes_the_same_ladder(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory_above(120, monkeypatch)
    directory = trained(runs.make_run(tmp_path, model=model, plan=plans.plan(tokens_per_micro_step=400)))
    rungs = [event for event in runs.events(directory) if "Memory ran out" in event["message"]]
    assert [rung["data"]["tokens_per_micro_step"] for rung in rungs] == [200, 100]
    assert all("at the canary step" in rung["message"] for rung in rungs)
    (report,) = reports(directory)
    assert report["data"]["tokens_per_micro_step"] == 100
    assert report["data"]["tokens"] <= 120


def test_a_job_that_cannot_fit_fails_before_anything_was_trained(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out_of_memory_above(5, monkeypatch)
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(), validation=runs.chat_rows(3))
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "out_of_memory"
    assert "at the canary step before training" in result.failure.message
    assert not directory.metrics.exists()
    assert directory.phase.read_text() == "canary"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_heaviest_micro_step_of_all_epochs_and_processes_is_found(processes: int) -> None:
    random = np.random.default_rng(0)
    for case in range(20):
        rows = runs.rows_of_lengths(random.integers(5, 200, size=50))
        plan = plans.plan(rows_per_step=4 * processes, epochs=3, seed=case)
        sharing = Sharing(rows, work=rows.squared_lengths().astype(np.float64), processes=processes)
        budget, steps = 300, 39
        order = RowOrder(50, rows_per_step=4 * processes, seed=case)
        seen = [
            int(rows.lengths()[micro_step].sum())
            for step in range(1, min(steps, 3 * -(-50 // (4 * processes))) + 1)
            for own in sharing.micro_steps(order.of_step(step), token_budget=budget)
            for micro_step in own
        ]
        found = canary.largest_micro_step(sharing, plan, token_budget=budget, total_steps=steps)
        assert int(rows.lengths()[found].sum()) in seen
        assert int(rows.lengths()[found].sum()) >= min(max(seen), canary.FULL_ENOUGH * budget)


def test_the_search_for_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out: list[int] = []

    class Counted(Sharing):
        def micro_steps(self, chosen: Sequence[int], *, token_budget: int) -> list[list[list[int]]]:
            laid_out.append(len(chosen))
            return super().micro_steps(chosen, token_budget=token_budget)

    rows = runs.rows_of_lengths([10] * 5000)
    sharing = Counted(rows, work=rows.lengths().astype(np.float64))
    found = canary.largest_micro_step(
        sharing, plans.plan(rows_per_step=4, epochs=50), token_budget=5000, total_steps=60_000
    )
    assert len(found) == 4
    assert len(laid_out) == canary.STEPS_SEARCHED


def test_a_row_beyond_the_budget_stands_alone_and_is_the_heaviest() -> None:
    rows = runs.rows_of_lengths([10, 20, 500, 30])
    sharing = Sharing(rows, work=rows.lengths().astype(np.float64))
    assert canary.largest_micro_step(sharing, plans.plan(), token_budget=64, total_steps=1) == [2]


def out_of_memory_above(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that holds micro-steps of at most so many tokens."""
    forward = Learner.forward

    def forward_if_it_fits(learner: Learner, batch: PackedBatch, *assess: Any) -> Any:
        if batch.rows and batch.tokens > tokens:  # the trial has rows of its own
            torch.rand(3)
            raise torch.OutOfMemoryError("out of memory")
        return forward(learner, batch, *assess)

    monkeypatch.setattr(Learner, "forward", forward_if_it_fits)


def test_an_equal_run_of_the_worker_spares_it_and_changes_no_bit(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(memory=MEMORY, time=TIME, checkpoint_interval_steps=100)
    first = trained(runs.make_run(tmp_path / "first", model=model, plan=plan))
    report, result = first.read_canary(), first.read_result()
    assert report is not None
    assert result is not None
    rehearsals = Rehearsals()
    rehearsals.remember(first.request(), result, report)
    again = runs.make_run(tmp_path / "again", model=model, plan=plan)
    again.create(again.request().model_copy(update={"rehearsal": rehearsals.find(again.request())}))
    trained(again)
    assert again.read_canary() is None
    assert reports(again) == []
    (event,) = (event for event in runs.events(again) if event["message"].startswith("No canary step"))
    assert event["data"]["tokens"] == report.tokens
    name = "adapter_model.safetensors"
    assert sha256_of(first.output / name) == sha256_of(again.output / name)


def test_an_earlier_run_of_smaller_steps_does_not_spare_it(tmp_path: Path, model: Path) -> None:
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(memory=MEMORY, time=TIME, total_steps=2))
    smaller = Rehearsal(tokens=20, longest_row_tokens=20, peak_memory_bytes=2**30)
    directory.create(directory.request().model_copy(update={"rehearsal": smaller}))
    assert len(reports(trained(directory))) == 1
