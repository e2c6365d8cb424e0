"""An adapter merged outside a job: what is kept says what base and adapter say, and nothing else is kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.cli.results.pull import name_base
from tunesmith.worker.train.export import adapter_folder, merge_folders

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, by PEFT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    directory = runs.make_run(tmp_path_factory.mktemp("adapter"), model=model, plan=plans.plan(epochs=1))
    assert runs.train_here(directory) == 0
    return directory.output


def test_the_merged_folder_loads_and_was_compared(model: Path, adapter: Path, tmp_path: Path) -> None:
    told = merge_folders.merge(model, adapter, tmp_path / "model")
    assert 0 < told["mean_difference_nats"] <= told["tolerance_nats"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in (tmp_path / "model").iterdir()}


def test_an_adapter_of_another_base_is_refused_in_a_line(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = build_tiny_model(tmp_path / "other", hidden_size=32)
    assert merge_folders.main([str(other), str(adapter), str(tmp_path / "model")]) == 1
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert told["code"] == "adapter_of_another_base"
    assert "cannot be merged" in told["message"]
    assert not (tmp_path / "model").exists()


def test_what_differs_is_not_kept(
    model: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compute: Callable[..., torch.Tensor] = merge_folders.token_log_probabilities
    calls = iter((0.0, 0.1))
    monkeypatch.setattr(merge_folders, "token_log_probabilities", lambda *given: compute(*given) + next(calls))
    assert merge_folders.main([str(model), str(adapter), str(tmp_path / "model")]) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["code"] == "merged_model_differs"
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_not_there_is_not_blamed_on_the_base(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge_folders.main([str(model), str(tmp_path / "nothing"), str(tmp_path / "model")]) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["code"] == "tool_failed"


def test_an_adapters_folder_answers_by_itself_with_the_base_that_it_names(
    model: Path, adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    name_base(folder, model)
    told = adapter_folder.compare(model, folder)
    assert told["largest_difference_nats"] == 0
    assert told["moved_nats"] > 0


def test_an_adapters_folder_that_names_another_base_is_refused(
    model: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    name_base(folder, build_tiny_model(tmp_path / "other", seed=1))
    assert adapter_folder.main([str(model), str(folder)]) == 1
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["code"] == "export_differs"
