"""A run that was stopped or killed, however often, ends with the same bytes as one that was left alone."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.run_directory import EXIT_STOPPED, RunDirectory
from tunesmith.worker.train.checkpoints.state import newest_whole, verify

RESULTS = {"lora": "adapter_model.safetensors", "qlora": "adapter_model.safetensors", "full": "model.safetensors"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def prepared(root: Path, model: Path, method: str, **changes: object) -> RunDirectory:
    plan = plans.plan(**{"method": method, "precision": "bf16", "checkpoint_interval_steps": 2, **changes})
    return runs.make_run(root, model=model, plan=plan, validation=runs.chat_rows(5, offset=50))


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("method", ["lora", pytest.param("qlora", marks=pytest.mark.slow), "full"])
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("adamw_8bit", marks=pytest.mark.slow)])
def test_stopping_and_going_on_changes_no_bit(tmp_path: Path, model: Path, method: str, optimizer: str) -> None:
    alone = prepared(tmp_path / "alone", model, method, optimizer=optimizer)
    assert runs.train_here(alone) == 0

    disturbed = prepared(tmp_path / "disturbed", model, method, optimizer=optimizer)
    codes = []
    while not codes or codes[-1] == EXIT_STOPPED:
        # The stop file is there from the start, so each round does exactly one step.
        disturbed.stop.touch()
        codes.append(runs.train_here(disturbed))
        assert newest_whole(disturbed.checkpoints) is not None
    assert codes == [EXIT_STOPPED] * 5 + [0]

    name = RESULTS[method]
    assert sha256_of(disturbed.output / name) == sha256_of(alone.output / name)
    said, wanted = disturbed.read_result(), alone.read_result()
    for field in ("steps", "trained_tokens", "first_valid_loss", "final_valid_loss", "final_train_loss"):
        assert getattr(said, field) == getattr(wanted, field)


def test_going_on_with_other_arithmetic_is_said(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model, "lora")
    for threads in (1, 1, 2):
        directory.stop.touch()
        torch.set_num_threads(threads)
        assert runs.train_here(directory) == EXIT_STOPPED
    torch.set_num_threads(1)
    told = [event["message"] for event in runs.events(directory) if event["message"].startswith("Continuing")]
    assert [message.partition(": ")[2] for message in told] == ["", "threads 1, now 2."]


@pytest.mark.slow
def test_dropout_draws_the_same_numbers_after_going_on(tmp_path: Path, model: Path) -> None:
    changes = {"lora": plans.lora(dropout=0.2)}
    alone = prepared(tmp_path / "alone", model, "lora", **changes)
    assert runs.train_here(alone) == 0
    disturbed = prepared(tmp_path / "disturbed", model, "lora", **changes)
    disturbed.stop.touch()
    assert runs.train_here(disturbed) == EXIT_STOPPED
    disturbed.stop.unlink()
    assert runs.train_here(disturbed) == 0
    assert sha256_of(disturbed.output / RESULTS["lora"]) == sha256_of(alone.output / RESULTS["lora"])


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_no_bit(tmp_path: Path, model: Path) -> None:
    alone = prepared(tmp_path / "alone", model, "lora", epochs=8)
    assert runs.train_here(alone) == 0

    killed = prepared(tmp_path / "killed", model, "lora", epochs=8)
    with runs.started(killed) as process:
        runs.wait_for_step(killed, 5, process)
        os.killpg(process.pid, signal.SIGKILL)
    assert killed.read_result() is None
    assert runs.train_here(killed) == 0
    assert sha256_of(killed.output / RESULTS["lora"]) == sha256_of(alone.output / RESULTS["lora"])


def test_sigterm_stops_at_the_next_step_with_a_whole_checkpoint(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model, "lora", epochs=50)
    with runs.started(directory) as process:
        runs.wait_for_step(directory, 1, process)
        process.terminate()
        assert process.wait(timeout=60) == EXIT_STOPPED
    newest = newest_whole(directory.checkpoints)
    assert newest is not None
    assert verify(newest).step == runs.metrics(directory)[-1]["step"]


@pytest.mark.slow
def test_the_trainer_dies_with_the_worker_that_holds_its_lifeline(tmp_path: Path, model: Path) -> None:
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    plan = plans.plan(epochs=50)
    directory = runs.make_run(tmp_path, model=model, plan=plan, lifeline_fd=read_end)
    with runs.started(directory, pass_fds=(read_end,)) as process:
        os.close(read_end)
        runs.wait_for_step(directory, 1, process)
        os.close(write_end)
        assert process.wait(timeout=60) == -signal.SIGKILL


@pytest.mark.mostly_slow(rows=1)
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_an_altered_checkpoint_is_never_loaded_and_the_one_before_it_is(tmp_path: Path, model: Path, file: str) -> None:
    directory = prepared(tmp_path, model, "lora")
    assert runs.train_here(directory) == 0
    wanted = sha256_of(directory.output / RESULTS["lora"])
    whole, torn = sorted(directory.checkpoints.iterdir())[-2:]
    data = bytearray((torn / file).read_bytes())
    data[len(data) // 2] ^= 1
    (torn / file).write_bytes(data)
    assert newest_whole(directory.checkpoints) == whole

    shutil.rmtree(directory.output)
    directory.result.unlink()
    assert runs.train_here(directory) == 0
    assert sha256_of(directory.output / RESULTS["lora"]) == wanted
    assert any(event["data"].get("step") == 4 and "Continuing" in event["message"] for event in runs.events(directory))


def test_the_newest_checkpoints_are_kept_and_older_ones_removed(tmp_path: Path, model: Path) -> None:
    directory = prepared(tmp_path, model, "lora", checkpoint_interval_steps=1)
    assert runs.train_here(directory) == 0
    names = [folder.name for folder in sorted(directory.checkpoints.iterdir())]
    assert names == ["step-00000004", "step-00000005", "step-00000006"]
