"""Every method and option trains, and what it writes is what it measured."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.metrics import METRICS
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train.data.rows import load_rows
from tunesmith.worker.train.data.sharing import Sharing
from tunesmith.worker.train.loop.evaluate import combined, own_sums
from tunesmith.worker.train.loop.objectives import supervised
from tunesmith.worker.train.models.model import Learner, load_model, load_tokenizer
from tunesmith.worker.train.session import train_to_result

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
CPU = torch.device("cpu")
TALK = [{"role": "user", "content": "one two three"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def train(root: Path, model: Path, *, plan: Any, **changes: Any) -> RunDirectory:
    directory = runs.make_run(root, model=model, plan=plan, validation=runs.chat_rows(6, offset=40), **changes)
    assert runs.train_here(directory) == 0
    return directory


def validation_loss(loaded: torch.nn.Module, model: Path, root: Path) -> float:
    rows = load_rows(
        root / "valid.jsonl", tokenizer=load_tokenizer(model), objective="supervised", max_sequence_length=256
    )
    sharing = Sharing(rows, work=rows.lengths())
    own = own_sums(Learner(loaded.eval()), rows, objective=supervised(), sharing=sharing, token_budget=256, device=CPU)
    return combined(own, processes=1).loss


ADAPTERS = {
    "lora": {},
    "attention only": {"target_modules": "attention"},
    "dropout": {"dropout": 0.1},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init": "pissa"},
    "PiSSA with rsLoRA": {"init": "pissa", "use_rslora": True},
}


@pytest.mark.mostly_slow(rows=2)
@pytest.mark.parametrize("option", ADAPTERS)
def test_an_adapter_read_back_by_peft_has_the_loss_that_was_reported(tmp_path: Path, model: Path, option: str) -> None:
    plan = plans.plan(lora=plans.lora(**ADAPTERS[option]), epochs=4)
    result = train(tmp_path, model, plan=plan).read_result()
    assert result is not None
    assert result.output_kind == "adapter"
    assert result.final_valid_loss < result.first_valid_loss - 0.1
    base = load_model(model, plan=plan, device=CPU)
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "output")
    assert validation_loss(adapted, model, tmp_path) == pytest.approx(result.final_valid_loss, rel=1e-4)


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_fully_tuned_model_read_back_has_the_loss_that_was_reported(
    tmp_path: Path, model: Path, precision: str
) -> None:
    plan = plans.plan(method="full", precision=precision, activation_checkpointing="selective")
    result = train(tmp_path, model, plan=plan).read_result()
    assert result is not None
    assert result.output_kind == "model"
    assert result.final_valid_loss < result.first_valid_loss - 0.3
    again = load_model(tmp_path / "run" / "output", plan=plan, device=CPU)
    assert validation_loss(again, model, tmp_path) == pytest.approx(result.final_valid_loss, rel=1e-3)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_qlora_teaches_every_layer_after_an_evaluation(tmp_path: Path, model: Path, dropout: float) -> None:
    plan = plans.plan(method="qlora", precision="bf16", epochs=4, lora=plans.lora(dropout=dropout))
    directory = train(tmp_path, model, plan=plan)
    result = directory.read_result()
    assert result is not None
    assert result.final_valid_loss < result.first_valid_loss - 0.1
    from safetensors.torch import load_file

    adapter = load_file(directory.output / "adapter_model.safetensors")
    assert len(adapter) == 2 * 7 * 2
    for name, value in adapter.items():
        assert value.abs().max() > 0, name


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_merged_model_is_published_when_it_agrees_with_its_adapter(tmp_path: Path, model: Path, method: str) -> None:
    plan = plans.plan(method=method, precision="bf16")
    directory = runs.make_run(tmp_path, model=model, plan=plan, validation=runs.chat_rows(6, offset=40))
    request = directory.request()
    request = request.model_copy(update={"spec": JobSpec(model="tiny", seed=1, merge=True)})
    assert train_to_result(request, directory) == 0
    result = directory.read_result()
    merged = load_model(directory.output / "merged", plan=plans.plan(precision="bf16"), device=CPU)
    assert validation_loss(merged, model, tmp_path) == pytest.approx(result.final_valid_loss, rel=0.01)
    assert any("agrees" in event["message"] for event in runs.events(directory))


def test_training_goes_on_from_an_earlier_adapter(tmp_path: Path, model: Path) -> None:
    first = train(tmp_path / "first", model, plan=plans.plan()).read_result()
    again = train(
        tmp_path / "again", model, plan=plans.plan(), adapter_dir=str(tmp_path / "first" / "run" / "output")
    ).read_result()
    assert again.first_valid_loss == pytest.approx(first.final_valid_loss, rel=1e-4)
    assert again.final_valid_loss < again.first_valid_loss


def test_preferences_raise_the_preferred_answer_above_the_other(tmp_path: Path, model: Path) -> None:
    rows = [
        {
            "input": {"messages": row["messages"][:1]},
            "preferred_output": [{"role": "assistant", "content": "yes please"}],
            "non_preferred_output": [{"role": "assistant", "content": "no"}],
        }
        for row in runs.chat_rows(24)
    ]
    plan = plans.plan(objective="dpo", beta=0.1, epochs=4)
    directory = runs.make_run(tmp_path, model=model, plan=plan, rows=rows, validation=rows[:4])
    assert runs.train_here(directory) == 0
    points = runs.metrics(directory)
    # Before the first step the model is its own reference: the gap is zero and the loss ln 2.
    assert points[0]["valid_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert points[1]["train_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert points[-1]["valid_loss"] < 0.5
    assert points[-1]["valid_reward_accuracy"] == 1.0


def test_the_result_can_be_read_by_a_person_and_repeated_by_a_machine(tmp_path: Path, model: Path) -> None:
    directory = train(tmp_path, model, plan=plans.plan())
    manifest = json.loads((directory.output / "manifest.json").read_text())
    assert manifest["plan"]["learning_rate"] == 5e-3
    assert set(manifest["data"]) == {"training_file", "validation_file"}
    assert set(manifest["files"]) >= {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"}
    card = (directory.output / "README.md").read_text()
    assert "base_model:" not in card, "no hub has the base"
    assert "--with-base" in card
    assert "validation loss after" in card
    assert str(tmp_path) not in card
    assert str(tmp_path) not in (directory.output / "adapter_config.json").read_text()


def test_each_step_has_one_line_of_metrics(tmp_path: Path, model: Path) -> None:
    directory = train(tmp_path, model, plan=plans.plan())
    points = runs.metrics(directory)
    assert [point["step"] for point in points] == [0, 1, 2, 3, 4, 5, 6]
    assert [point["step"] for point in points if point["valid_loss"] is not None] == [0, 4, 6]
    assert all(set(point) == set(METRICS) for point in points)
    only_evaluated = {"valid_loss", "valid_mean_token_accuracy"}
    for point in points[1:]:
        missing = set() if point["step"] in (4, 6) else only_evaluated
        assert {name for name, value in point.items() if value is None} == missing
    assert all(point["grad_norm"] > 0 for point in points[1:])
    assert points[-1]["eta_seconds"] == 0
    assert all(0 < point["mfu"] < 1 for point in points[1:])
