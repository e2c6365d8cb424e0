"""Checkpoints hold up training for a bounded share of its time, however slow the disk is."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.train.checkpoints import schedule
from tunesmith.worker.train.checkpoints import writer as checkpoint_writer
from tunesmith.worker.train.checkpoints.state import load_progress, newest_whole, verify

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
WRITING_SECONDS = 0.4
GRACE_SECONDS = 0.2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build_tiny_model(tmp_path / "model")


def prepared(root: Path, model: Path, **changes: Any) -> RunDirectory:
    values = {"checkpoint_interval_steps": 1, "epochs": 20, "evaluation_interval_steps": 1000}
    return runs.make_run(root, model=model, plan=plans.plan(**{**values, **changes}))


def slow_disk(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file of tensors takes its time, and is then really written; returns the list of them."""
    written: list[Path] = []
    save_file = checkpoint_writer.save_file

    def save_slowly(tensors: Any, path: Path, *args: Any) -> None:
        time.sleep(WRITING_SECONDS / 3)  # three such files in a checkpoint
        save_file(tensors, path, *args)
        written.append(path)

    monkeypatch.setattr(checkpoint_writer, "save_file", save_slowly)
    monkeypatch.setattr(schedule, "STALL_GRACE_SECONDS", GRACE_SECONDS)
    return written


@pytest.mark.slow
def test_on_a_slow_disk_checkpoints_come_less_often_and_change_no_bit(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = prepared(tmp_path / "quick", model)
    assert runs.train_here(quick) == 0

    written = slow_disk(monkeypatch)
    slow = prepared(tmp_path / "slow", model)
    assert runs.train_here(slow) == 0
    result = slow.read_result()
    assert result is not None
    assert result.training_seconds is not None
    copying = 0.1  # of the checkpoints that are taken, far below a millisecond each here
    budget = GRACE_SECONDS + schedule.STALL_SHARE * result.training_seconds + copying
    assert 0 < result.checkpoint_stall_seconds <= budget
    # Waiting for each of sixty would have cost sixty times as much.
    assert 1 < len({path.parent for path in written}) < 20

    (first, *_) = [event for event in runs.events(slow) if "held training up" in event["message"]]
    assert "every 2 steps instead of every 1" in first["message"]
    assert first["data"]["checkpoint_interval_steps"] == 2
    newest = newest_whole(slow.checkpoints)
    assert newest is not None
    assert verify(newest).step == result.steps == 60
    adapter = "adapter_model.safetensors"
    assert sha256_of(slow.output / adapter) == sha256_of(quick.output / adapter)


def test_on_a_quick_disk_the_plan_is_kept_and_the_stall_is_told(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model, epochs=1)
    assert runs.train_here(directory) == 0
    result = directory.read_result()
    assert result is not None
    assert 0 < result.checkpoint_stall_seconds < schedule.STALL_GRACE_SECONDS
    assert len(list(directory.checkpoints.iterdir())) == 3
    assert not [event for event in runs.events(directory) if "held training up" in event["message"]]


def test_a_run_that_goes_on_keeps_count_of_what_checkpoints_have_cost(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model, epochs=2)
    stalls = []
    for _ in range(3):
        directory.stop.touch()
        runs.train_here(directory)
        newest = newest_whole(directory.checkpoints)
        assert newest is not None
        stalls.append(load_progress(newest, seed=7).checkpoint_stall_seconds)
    assert stalls == sorted(stalls)
    assert stalls[0] < stalls[-1]
