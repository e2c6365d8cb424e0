"""Models are measured as training measures them, and a tuned one is seen to be better than its base."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.codes import ArtifactKind, ErrorCode
from tunesmith.tuning.evaluation import ROWS_FILE, EvaluatedRow, EvaluationSpec, measures_of, pairs_of
from tunesmith.tuning.gate.verdict import GateRule, judge
from tunesmith.tuning.job import JobSpec
from tunesmith.worker.run_directory import EXIT_FAILED, EXIT_STOPPED, OtherModel, RunDirectory, TrainResult

HELD_OUT = runs.chat_rows(24, offset=30)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    plan = plans.plan(epochs=6, evaluation_interval_steps=1000, checkpoint_interval_steps=15)
    root = tmp_path_factory.mktemp("tuned")
    directory = runs.make_run(root, model=model, plan=plan, rows=runs.chat_rows(40), validation=HELD_OUT)
    assert runs.train_here(directory) == 0
    return directory


def evaluation(root: Path, model: Path, *, score: dict[str, Any] | None = None, **changes: Any) -> RunDirectory:
    asked = EvaluationSpec.model_validate({"model": "tuned", "against": "base", "score": score})
    rows = changes.pop("rows", HELD_OUT)
    directory = runs.make_run(root, model=model, plan=plans.plan(method="full"), rows=rows, **changes)
    request = directory.request()
    directory.create(request.model_copy(update={"spec": JobSpec(model="tiny", seed=7, evaluation=asked)}))
    return directory


def rows_of(directory: RunDirectory) -> list[EvaluatedRow]:
    lines = (directory.output / ROWS_FILE).read_text(encoding="utf-8").splitlines()
    return [EvaluatedRow.model_validate_json(line) for line in lines]


def result_of(directory: RunDirectory) -> TrainResult:
    result = directory.read_result()
    assert result is not None
    return result


def test_an_adapter_is_measured_beside_its_base_to_the_losses_of_its_training(
    tmp_path: Path, model: Path, tuned: RunDirectory
) -> None:
    directory = evaluation(
        tmp_path,
        model,
        adapter_dir=str(tuned.output),
        against=OtherModel(model_dir=str(model)),
        score={"type": "exact"},
    )
    assert runs.train_here(directory) == 0
    rows, trained, result = rows_of(directory), result_of(tuned), result_of(directory)
    ours = measures_of([row.model for row in rows])
    base = measures_of([row.against for row in rows if row.against])
    assert ours.loss == pytest.approx(trained.final_valid_loss, rel=1e-6)
    assert base.loss == pytest.approx(trained.first_valid_loss, rel=1e-6)
    point = runs.metrics(tuned)[-1]
    assert ours.token_accuracy == pytest.approx(point["valid_mean_token_accuracy"], abs=1e-9)
    assert [row.line for row in rows] == list(range(1, 25))
    assert rows[0].expected == HELD_OUT[0]["messages"][1]["content"]
    assert HELD_OUT[0]["messages"][0]["content"] in rows[0].prompt_end
    assert all(row.model.hit == (row.model.answer == row.expected) for row in rows)
    assert (result.output_kind, result.steps) == (ArtifactKind.EVALUATION, 24)
    assert runs.metrics(directory)[-1]["step"] == 24 * 2 * 2
    verdict = judge(pairs_of(rows), rule=GateRule(decide_by="loss"))
    assert verdict.word == "better", verdict.text


@pytest.mark.slow
def test_checkpoints_full_models_and_other_bases_are_measured_too(
    tmp_path: Path, model: Path, tuned: RunDirectory
) -> None:
    checkpoints = sorted(tuned.checkpoints.iterdir())
    other = build_tiny_model(tmp_path / "other", seed=5)
    directory = evaluation(
        tmp_path / "a", model, adapter_dir=str(checkpoints[-1]), against=OtherModel(model_dir=str(other))
    )
    assert runs.train_here(directory) == 0
    rows = rows_of(directory)
    assert measures_of([row.model for row in rows]).loss == pytest.approx(result_of(tuned).final_valid_loss, rel=1e-6)
    assert all(row.against is not None and row.model.answer is None for row in rows)

    plan = plans.plan(method="full", epochs=2, evaluation_interval_steps=1000, checkpoint_interval_steps=1000)
    full = runs.make_run(tmp_path / "full", model=model, plan=plan, validation=HELD_OUT)
    assert runs.train_here(full) == 0
    masters = sorted(full.checkpoints.iterdir())[-1]
    directory = evaluation(
        tmp_path / "b", full.output, against=OtherModel(model_dir=str(model), adapter_dir=str(masters))
    )
    assert runs.train_here(directory) == 0
    rows = rows_of(directory)
    loss = pytest.approx(result_of(full).final_valid_loss, rel=1e-6)
    assert measures_of([row.model for row in rows]).loss == loss
    assert measures_of([row.against for row in rows if row.against]).loss == loss


@pytest.mark.slow
def test_a_checkpoint_under_pissa_is_measured_over_the_base_as_it_was(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(
        lora=plans.lora(init="pissa"), epochs=1, evaluation_interval_steps=1000, checkpoint_interval_steps=1000
    )
    directory = runs.make_run(tmp_path / "pissa", model=model, plan=plan, validation=HELD_OUT)
    assert runs.train_here(directory) == 0
    checkpoint = sorted(directory.checkpoints.iterdir())[-1]
    measured = evaluation(tmp_path / "run", model, adapter_dir=str(checkpoint))
    assert runs.train_here(measured) == 0
    loss = measures_of([row.model for row in rows_of(measured)]).loss
    assert loss == pytest.approx(result_of(directory).final_valid_loss, rel=1e-5)


def test_only_the_chosen_lines_are_read(tmp_path: Path, model: Path) -> None:
    directory = evaluation(tmp_path, model, held_out_lines=(2, 5))
    assert runs.train_here(directory) == 0
    rows = rows_of(directory)
    assert [row.line for row in rows] == [2, 5]
    assert rows[0].against is None


def test_a_stop_ends_it_without_a_result(tmp_path: Path, model: Path) -> None:
    directory = evaluation(tmp_path, model)
    directory.stop.touch()
    assert runs.train_here(directory) == EXIT_STOPPED
    assert directory.read_result() is None
    assert not (directory.output / ROWS_FILE).exists()


def test_an_adapter_of_another_base_fails_with_its_reason(tmp_path: Path, tuned: RunDirectory) -> None:
    other = build_tiny_model(tmp_path / "other", hidden_size=32)
    directory = evaluation(tmp_path / "run", other, adapter_dir=str(tuned.output))
    assert runs.train_here(directory) == EXIT_FAILED
    failure = json.loads(directory.result.read_text())["failure"]
    assert failure["code"] == ErrorCode.ADAPTER_OF_ANOTHER_BASE
    assert failure["hint"]
