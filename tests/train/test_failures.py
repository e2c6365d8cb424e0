"""What goes wrong is named by a stable code with a way out, and nothing that was good is lost."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.errors import Category, Failure
from tunesmith.worker.run_directory import EXIT_FAILED, RunDirectory
from tunesmith.worker.train.checkpoints import writer as checkpoint_writer
from tunesmith.worker.train.checkpoints.state import newest_whole

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build_tiny_model(tmp_path / "model")


def failure(directory: RunDirectory) -> Failure:
    assert runs.train_here(directory) == EXIT_FAILED
    result = directory.read_result()
    assert result is not None
    assert result.failure is not None
    assert "Traceback" not in result.failure.message
    assert result.failure.hint
    return result.failure


@pytest.mark.parametrize(
    "damage", ["config.json", "tokenizer.json", "model.safetensors", "a missing weight", "a half file"]
)
def test_a_broken_model_folder_is_told_from_a_broken_program(tmp_path: Path, model: Path, damage: str) -> None:
    weights = model / "model.safetensors"
    if damage == "a missing weight":
        tensors = load_file(weights)
        tensors.pop("model.layers.0.mlp.up_proj.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "a half file":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        (model / damage).unlink()
    told = failure(runs.make_run(tmp_path, model=model, plan=plans.plan()))
    assert told.code == "broken_model"
    assert told.category is Category.USER_ERROR


@pytest.mark.parametrize(
    ("number", "code", "category"),
    [
        (errno.ENOSPC, "disk_full", Category.DISK_FULL),
        (errno.EROFS, "disk_unusable", Category.TRANSIENT),
        (errno.EIO, "disk_unusable", Category.TRANSIENT),
    ],
)
def test_a_disk_that_takes_no_more_is_the_machines_fault_and_keeps_the_last_checkpoint(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str, category: Category
) -> None:
    write = checkpoint_writer.save_file

    def refuse_step_four(tensors: Any, path: Path, *args: Any) -> None:
        if "00000004" in str(path):
            raise OSError(number, os.strerror(number))
        write(tensors, path, *args)

    monkeypatch.setattr(checkpoint_writer, "save_file", refuse_step_four)
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(checkpoint_interval_steps=2))
    told = failure(directory)
    assert (told.code, told.category, told.retryable) == (code, category, True)
    newest = newest_whole(directory.checkpoints)
    assert newest is not None
    assert newest.name == "step-00000002"
    assert not list(directory.checkpoints.glob(".step*"))
