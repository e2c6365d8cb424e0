"""What goes wrong is named by a stable code with a way out, and nothing that was good is lost."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.tiny_model import build_tiny_model
from tests.train import runs
from tuning.errors import Category, Failure
from worker.rundir import EXIT_FAILED, RunDirectory
from worker.train import checkpoint
from worker.train.checkpoint import newest_whole

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


def test_a_loss_that_is_no_number_names_step_lines_and_last_good_checkpoint(tmp_path: Path, model: Path) -> None:
    plan = runs.plan(
        method="full", learning_rate=1e30, max_gradient_norm=0, warmup_steps=0, checkpoint_interval_steps=1
    )
    told = failure(runs.make_run(tmp_path, model=model, plan=plan))
    assert told.code == "loss_is_not_finite"
    assert told.category is Category.USER_ERROR
    assert "at step 2" in told.message
    assert "Lines of the training file" in told.message
    assert "step-00000001" in told.message


def test_target_modules_that_match_nothing_are_answered_with_near_names(tmp_path: Path, model: Path) -> None:
    plan = runs.plan(lora=runs.lora(target_modules=("q_porj",)))
    told = failure(runs.make_run(tmp_path, model=model, plan=plan))
    assert told.code == "no_such_target_modules"
    assert "Did you mean q_proj" in str(told.hint)


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
    told = failure(runs.make_run(tmp_path, model=model, plan=runs.plan()))
    assert told.code == "broken_model"
    assert told.category is Category.USER_ERROR


def test_tokens_without_embeddings_are_found_before_training(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model", vocabulary_size=512)
    config = json.loads((model / "config.json").read_text())
    small = load_file(model / "model.safetensors")
    small["model.embed_tokens.weight"] = small["model.embed_tokens.weight"][:300].clone()
    save_file(small, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    told = failure(runs.make_run(tmp_path, model=model, plan=runs.plan()))
    assert told.code == "vocabulary_mismatch"


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, model: Path) -> None:
    other = build_tiny_model(tmp_path / "other", hidden_size=32)
    directory = runs.make_run(tmp_path / "first", model=other, plan=runs.plan())
    assert runs.train_here(directory) == 0
    told = failure(runs.make_run(tmp_path / "second", model=model, plan=runs.plan(), adapter_dir=str(directory.output)))
    assert told.code == "adapter_of_another_base"


def test_a_full_disk_is_the_machines_fault_and_keeps_the_last_checkpoint(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.save_file

    def fill_up_at_step_four(tensors: Any, path: Path, *args: Any) -> None:
        if "00000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(tensors, path, *args)

    monkeypatch.setattr(checkpoint, "save_file", fill_up_at_step_four)
    directory = runs.make_run(tmp_path, model=model, plan=runs.plan(checkpoint_interval_steps=2))
    told = failure(directory)
    assert (told.code, told.category, told.retryable) == ("disk_full", Category.DISK_FULL, True)
    newest = newest_whole(directory.checkpoints)
    assert newest is not None
    assert newest.name == "step-00000002"
    assert not list(directory.checkpoints.glob(".step*"))
