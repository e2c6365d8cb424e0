"""Early stopping: it ends in time, gives back the best weights and says so, also after the trainer was killed."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import EXIT_STOPPED, RunDirectory
from tunesmith.worker.train.checkpoints.best import BEST_FILE
from tunesmith.worker.train.checkpoints.state import newest_whole

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ADAPTER = "adapter_model.safetensors"
# Held-out answers that contradict the training rows: the more is learned, the worse they get.
CONTRADICTING = [
    {"messages": [row["messages"][0], {"role": "assistant", "content": "Paris France dog"}]}
    for row in runs.chat_rows(6)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def prepared(root: Path, model: Path, **changes: Any) -> RunDirectory:
    values = {"epochs": 40, "learning_rate": 2e-2, "evaluation_interval_steps": 1, "early_stopping_patience": 3}
    values["keeps_best_weights"] = True
    plan = plans.plan(**{**values, "checkpoint_interval_steps": 1, **changes})
    return runs.make_run(root, model=model, plan=plan, validation=CONTRADICTING)


def best_of(directory: RunDirectory) -> tuple[int, float]:
    """The step with the lowest validation loss after the start, and that loss."""
    losses = {point["step"]: point["valid_loss"] for point in runs.metrics(directory) if point["step"]}
    best = min(losses, key=lambda step: losses[step])
    return best, losses[best]


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_that_gets_worse_stops_and_gives_back_its_best_weights(tmp_path: Path, model: Path, method: str) -> None:
    rate = {"lora": 2e-2, "full": 5e-3}[method]
    directory = prepared(tmp_path, model, method=method, learning_rate=rate, early_stopping_patience=2)
    assert runs.train_here(directory) == 0
    points, (best, loss) = runs.metrics(directory), best_of(directory)
    assert points[-1]["step"] == best + 2 < points[-1]["total_steps"]

    name, saved = (ADAPTER, ADAPTER) if method == "lora" else ("model.safetensors", "masters.safetensors")
    result = load_file(directory.output / name)
    checkpoint = load_file(directory.checkpoints / f"step-{best:08d}" / saved)
    last = load_file(directory.checkpoints / f"step-{best + 2:08d}" / saved)
    matching = {key: value for key, value in result.items() if key in checkpoint}
    assert len(matching) == len(checkpoint)
    assert all((checkpoint[key] == value).all() for key, value in matching.items())
    assert any((last[key] != value).any() for key, value in matching.items())

    told = directory.read_result()
    assert told is not None
    assert (told.steps, told.best_step) == (best + 2, best)
    assert told.final_valid_loss == loss
    (event,) = [event for event in runs.events(directory) if "Stopped early" in event["message"]]
    assert f"weights of step {best}" in event["message"]
    assert event["data"]["evaluations_since_best"] == 2


@pytest.mark.slow
def test_killing_the_trainer_changes_neither_the_stop_nor_the_best_weights(tmp_path: Path, model: Path) -> None:
    alone = prepared(tmp_path / "alone", model)
    assert runs.train_here(alone) == 0
    best, _ = best_of(alone)

    killed = prepared(tmp_path / "killed", model)
    with runs.started(killed) as process:
        runs.wait_for_step(killed, best + 2, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert killed.read_result() is None
    # Another machine has nothing but the one checkpoint that it was given.
    newest = newest_whole(killed.checkpoints)
    assert newest is not None
    moved = prepared(tmp_path / "moved", model)
    shutil.copytree(newest, moved.checkpoints / newest.name)
    assert runs.train_here(moved) == 0
    assert sha256_of(moved.output / ADAPTER) == sha256_of(alone.output / ADAPTER)
    assert moved.read_result().best_step == best


@pytest.mark.slow
def test_the_best_weights_travel_in_the_checkpoint_of_a_stopped_run(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model)
    codes = []
    while not codes or codes[-1] == EXIT_STOPPED:
        directory.stop.touch()
        codes.append(runs.train_here(directory))
    best, loss = best_of(directory)
    # The step that ends the run is the last; the ones before it were stopped on request.
    assert len(codes) == best + 3
    assert directory.read_result().final_valid_loss == loss
    newest = newest_whole(directory.checkpoints)
    assert newest is not None
    assert sha256_of(newest / BEST_FILE)


@pytest.mark.slow
def test_without_patience_nothing_stops_and_the_result_is_the_best_all_the_same(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model, early_stopping_patience=0, epochs=20)
    assert runs.train_here(directory) == 0
    (best, loss), told = best_of(directory), directory.read_result()
    assert told is not None
    assert told.steps == runs.metrics(directory)[-1]["total_steps"] > best == told.best_step
    assert told.final_valid_loss == loss
    newest = newest_whole(directory.checkpoints)
    assert newest is not None
    result, kept, last = (load_file(f) for f in (directory.output / ADAPTER, newest / BEST_FILE, newest / ADAPTER))
    assert all((result[name] == value).all() for name, value in kept.items())
    assert any((result[name] != value).any() for name, value in last.items())


def test_a_last_step_that_is_as_good_as_the_best_is_the_result(tmp_path: Path, model: Path) -> None:
    # Steps too small to change anything: what differs between evaluations is far below a hundredth.
    directory = prepared(tmp_path, model, early_stopping_patience=0, epochs=2, learning_rate=1e-6)
    assert runs.train_here(directory) == 0
    told = directory.read_result()
    assert told is not None
    assert told.best_step == told.steps
    assert not any("The result holds" in event["message"] for event in runs.events(directory))


@pytest.mark.slow
def test_a_run_that_is_not_to_keeps_nothing(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model, early_stopping_patience=0, keeps_best_weights=False, epochs=4)
    assert runs.train_here(directory) == 0
    told = directory.read_result()
    assert told is not None
    assert told.best_step is None
    assert told.final_valid_loss == runs.metrics(directory)[-1]["valid_loss"]
    assert not list(directory.checkpoints.glob(f"*/{BEST_FILE}"))
