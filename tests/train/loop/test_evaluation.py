"""Held-out rows are shared among processes, and what they think of them adds up to what one process thinks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.recipe.evaluations import evaluation_count
from tunesmith.worker.train.checkpoints.state import TrainState
from tunesmith.worker.train.data.rows import Rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.evaluate import combined, own_sums
from tunesmith.worker.train.loop.memory_ladder import MemoryLadder
from tunesmith.worker.train.loop.objectives import supervised
from tunesmith.worker.train.loop.pace import Pace
from tunesmith.worker.train.loop.reference import REFERENCE_FILE, ReferencePass, fingerprint
from tunesmith.worker.train.models.model import Learner, load_model
from tunesmith.worker.train.run import RunContext
from tunesmith.worker.train.session import prepare


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def prepared(root: Path, model: Path, *, objective: str = "supervised") -> tuple[RunContext, Learner]:
    rows = runs.chat_rows(9) if objective == "supervised" else runs.preference_rows(9)
    plan = plans.plan(objective=objective, beta=0.1)
    directory = runs.make_run(root, model=model, plan=plan, rows=rows, validation=rows[:4])
    run = prepare(directory.request(), directory)
    return run, Learner(load_model(model, plan=plan, device=run.device), attention=run.attention)


def sharing(rows: Rows, *, rank: int = 0, processes: int = 1, lockstep: bool = False) -> Sharing:
    return Sharing(rows, work=rows.lengths().astype(np.float64), rank=rank, processes=processes, lockstep=lockstep)


@pytest.mark.parametrize("lockstep", [False, True])
def test_shares_add_up_to_the_whole(tmp_path: Path, model: Path, lockstep: bool) -> None:
    run, learner = prepared(tmp_path, model)
    learner.train()

    def sums(rank: int, processes: int) -> torch.Tensor:
        shared = sharing(run.rows, rank=rank, processes=processes, lockstep=lockstep)
        # Every row alone: nine rows are three passes for one of four processes and two for the others.
        own = {"objective": supervised(), "sharing": shared, "token_budget": 1, "device": run.device}
        return own_sums(learner, run.rows, **own)

    whole = sums(0, 1)
    shares = [sums(rank, 4) for rank in range(4)]
    torch.testing.assert_close(torch.stack(shares).sum(dim=0), whole)
    assert all(0 < float(share[2]) < 0.5 * float(whole[2]) for share in shares)
    assert learner.training
    assert combined(whole, processes=1).loss == pytest.approx(float(whole[0] / whole[2]))


def reference_pass(run: RunContext, learner: Learner) -> ReferencePass:
    progress = TrainState()
    return ReferencePass(run, learner, sharing, MemoryLadder(run, learner, progress=progress), progress)


def test_scores_are_taken_from_a_checkpoint_that_has_them_for_these_very_rows(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, learner = prepared(tmp_path, model, objective="dpo")
    scored, kept = reference_pass(run, learner).over_all_rows(checkpoint=None)
    assert scored.rows.reference is not None
    assert scored.validation_rows is not None
    assert np.array_equal(scored.validation_rows.reference, scored.rows.reference[:4])
    save_file(kept, tmp_path / REFERENCE_FILE)
    monkeypatch.setattr(ReferencePass, "log_probabilities", None)  # to be called would be an error
    again, _ = reference_pass(run, learner).over_all_rows(checkpoint=tmp_path)
    assert np.array_equal(again.rows.reference, scored.rows.reference)


def test_scores_of_other_rows_are_not_used(tmp_path: Path, model: Path) -> None:
    run, learner = prepared(tmp_path, model, objective="dpo")
    tokens = run.rows.tokens.copy()
    tokens[-1] += 1
    other = Rows(**{**vars(run.rows), "tokens": tokens})
    assert fingerprint(other) != fingerprint(run.rows)
    save_file({fingerprint(other): torch.full((9, 2), 7.0)}, tmp_path / REFERENCE_FILE)
    scored, kept = reference_pass(run, learner).over_all_rows(checkpoint=tmp_path)
    assert scored.rows.reference is not None
    assert (scored.rows.reference < 0).all()
    assert fingerprint(other) not in kept


@pytest.mark.slow
def test_a_run_evaluates_as_often_as_planned_and_says_how_long_it_took(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(epochs=3, evaluation_interval_steps=4)
    directory = runs.make_run(tmp_path, model=model, plan=plan, validation=runs.chat_rows(6, offset=30))
    assert runs.train_here(directory) == 0
    points, result = runs.metrics(directory), directory.read_result()
    evaluated = [point["step"] for point in points if point["valid_loss"] is not None]
    assert evaluated == [0, 4, 8, 9]
    assert len(evaluated) == evaluation_count(9, interval=4)
    assert result is not None
    assert result.evaluation_seconds is not None
    assert result.evaluation_seconds > 0
    left = [point["eta_seconds"] for point in points if point["step"] > 0]
    assert left[-1] == 0, "its line is written after its evaluation"


def test_what_is_left_counts_the_evaluations_to_come_as_long_as_those_so_far() -> None:
    clock = iter([0.0, 0.0, 6.0, 10.0, 12.0])
    progress = TrainState(training_seconds=100.0, evaluation_seconds=50.0)
    pace = Pace(progress, clock=lambda: next(clock))
    with pace.evaluation():
        pass
    pace.begin_step()
    pace.end_step(tokens=10)
    assert pace.remaining_seconds(5, evaluations=3) == pytest.approx(5 * 2 + 3 * 6)
    assert (progress.training_seconds, progress.evaluation_seconds) == (102.0, 56.0)
