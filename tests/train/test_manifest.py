"""The manifest of a result says truly what it was made of, and a merged model is published only when it agrees."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.pinned import is_same_training
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory
from tunesmith.worker.train.export import merge
from tunesmith.worker.train.session import train_to_result

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def merging(root: Path, model: Path) -> tuple[int, RunDirectory]:
    directory = runs.make_run(root, model=model, plan=plans.plan(epochs=1), validation=runs.chat_rows(6, offset=40))
    request = directory.request().model_copy(update={"spec": JobSpec(model="tiny", seed=1, merge=True)})
    return train_to_result(request, directory), directory


def manifest(directory: RunDirectory) -> dict[str, Any]:
    return json.loads((directory.output / "manifest.json").read_text())


def test_every_hash_and_version_in_the_manifest_is_true(tmp_path: Path, model: Path) -> None:
    plan = plans.plan(epochs=1)
    directory = runs.make_run(tmp_path, model=model, plan=plan, validation=runs.chat_rows(6, offset=40))
    assert runs.train_here(directory) == 0
    said = manifest(directory)
    request = directory.request()
    assert said["data"]["training_file"] == sha256(Path(request.training_file))
    assert said["data"]["validation_file"] == sha256(Path(str(request.validation_file)))
    assert said["base_model"] == {path.name: sha256(path) for path in model.iterdir()}
    files = {path.name: sha256(path) for path in directory.output.iterdir() if path.name != "manifest.json"}
    assert said["files"] == files
    assert is_same_training(Plan.model_validate(said["plan"]), plan)
    assert (said["seed"], said["spec"]["seed"]) == (7, 7)
    assert said["resolved"] == {"tokens_per_micro_step": 256, "activation_checkpointing": "none", "processes": 1}
    assert said["versions"]["torch"] == torch.__version__
    assert {"python", "peft", "transformers", "tokenizers", "numpy", "safetensors"} <= set(said["versions"])
    assert said["hardware"]["threads"] == torch.get_num_threads()
    assert len(said["code"]["source_sha256"]) == 64
    assert str(tmp_path) not in json.dumps(said)


def test_held_out_rows_are_measured_on_never_trained_on_and_in_the_manifest(tmp_path: Path, model: Path) -> None:
    rows = runs.chat_rows(24)
    kept = [row for number, row in enumerate(rows, start=1) if number not in (2, 19)]
    split = runs.make_run(tmp_path / "split", model=model, plan=plans.plan(epochs=1), rows=rows, held_out_lines=(2, 19))
    alone = runs.make_run(tmp_path / "alone", model=model, plan=plans.plan(epochs=1), rows=kept)
    assert [runs.train_here(directory) for directory in (split, alone)] == [0, 0]
    assert manifest(split)["held_out_lines"] == [2, 19]
    assert manifest(split)["data"].keys() == {"training_file"}
    weights = [sha256(directory.output / "adapter_model.safetensors") for directory in (split, alone)]
    assert weights[0] == weights[1], "the held-out rows left a trace in the weights"
    assert runs.metrics(split)[-1]["valid_loss"] is not None
    assert any("lines 2, 19" in event["message"] for event in runs.events(split))


@pytest.mark.slow
def test_a_published_merged_model_shows_its_difference_and_tolerance(tmp_path: Path, model: Path) -> None:
    code, directory = merging(tmp_path, model)
    assert code == 0
    said = manifest(directory)
    assert 0 <= said["merged"]["mean_difference_nats"] <= said["merged"]["tolerance_nats"] == 1e-4
    assert said["merged"]["tokens_compared"] > 20
    assert said["files"]["merged/model.safetensors"] == sha256(directory.output / "merged" / "model.safetensors")
    card = (directory.output / "README.md").read_text()
    assert "| merged model |" in card
    assert "tolerance 0.0001" in card
    assert said["files"]["README.md"] == sha256(directory.output / "README.md")


def test_a_merged_model_that_differs_is_refused_and_the_adapter_is_kept(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = merge.load_model

    def load_damaged(folder: Path, **named: Any) -> Any:
        loaded = load(folder, **named)
        if folder.name == merge.MERGED:
            with torch.no_grad():
                loaded.model.layers[0].mlp.up_proj.weight.mul_(1.5)
        return loaded

    monkeypatch.setattr(merge, "load_model", load_damaged)
    code, directory = merging(tmp_path, model)
    assert code == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "merged_model_differs"
    assert "0.0001 are tolerated" in result.failure.message
    assert "among the job's artifacts" in str(result.failure.hint)
    assert result.output_kind == "adapter"
    assert not (directory.output / merge.MERGED).exists()
    assert manifest(directory)["merged"] is None
    assert (directory.output / "adapter_model.safetensors").is_file()
