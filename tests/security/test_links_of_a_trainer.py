"""A trainer may leave links in its run directory; the worker, which sees more than it, follows none of them."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from structlog import get_logger

from tests.worker.conftest import control, run, service
from tests.worker.scripted_service import ScriptedService
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.worker.attempt.follower import Follower
from tunesmith.worker.attempt.progress import Progress
from tunesmith.worker.attempt.stop_requests import StopRequests
from tunesmith.worker.attempt.token_cache import TokenStore
from tunesmith.worker.attempt.uploads import upload_log, upload_output
from tunesmith.worker.manifests import CheckpointManifest, CorruptCheckpoint, verify_checkpoint
from tunesmith.worker.run_directory import NotPlain, RunDirectory, TrainResult, append_line, write_atomically
from tunesmith.worker.trainer_process.log_file import TrainerLog, log_tail
from tunesmith.worker.transport.control import HttpAttemptControl

__all__ = ["control", "run", "service"]

SECRET = b"of somebody else"
RESULT = TrainResult(output_kind=ArtifactKind.ADAPTER)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "admin.key").write_bytes(SECRET)
    return tmp_path / "keys"


def assert_nothing_was_sent(service: ScriptedService) -> None:
    assert not any(SECRET in request.body for request in service.requests)


def test_an_output_folder_that_is_a_link_is_no_output(
    run: RunDirectory, elsewhere: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    run.output.rmdir()
    run.output.symlink_to(elsewhere)
    with pytest.raises(FileNotFoundError):
        upload_output(run, RESULT, control)
    assert service.requests == []


def test_links_below_the_output_are_not_sent(
    run: RunDirectory, elsewhere: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    (run.output / "adapter_model.safetensors").write_bytes(b"weights")
    (run.output / "folder").symlink_to(elsewhere)
    (run.output / "file").symlink_to(elsewhere / "admin.key")
    upload_output(run, RESULT, control)
    (sent,) = service.to("/artifacts")
    assert [file["name"] for file in sent.json["files"]] == ["adapter_model.safetensors"]
    assert_nothing_was_sent(service)


def test_a_log_that_is_a_link_or_a_pipe_is_neither_sent_nor_shown(
    run: RunDirectory, elsewhere: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    run.log.symlink_to(elsewhere / "admin.key")
    upload_log(run, control, secrets=(), cap_bytes=1024**2)
    assert (log_tail(run.log), service.requests) == ("", [])
    run.log.unlink()
    os.mkfifo(run.log)
    upload_log(run, control, secrets=(), cap_bytes=1024**2)
    assert (log_tail(run.log), service.requests) == ("", [])


def test_output_is_never_written_through_a_link(run: RunDirectory, elsewhere: Path) -> None:
    run.log.symlink_to(elsewhere / "admin.key")
    read, write = os.pipe()
    log = TrainerLog(run.log, cap_bytes=64 * 1024)
    log.follow(read)
    os.write(write, b"what it printed")
    os.close(write)
    log.close()
    assert (elsewhere / "admin.key").read_bytes() == SECRET
    assert run.log.read_text() == "what it printed"


def test_neither_are_the_workers_own_files(run: RunDirectory, elsewhere: Path) -> None:
    (run.root / f".plan.json.{os.getpid()}").symlink_to(elsewhere / "admin.key")
    run.stop.symlink_to(elsewhere / "made")
    write_atomically(run.plan, "{}")
    run.ask_to_stop()
    assert (elsewhere / "admin.key").read_bytes() == SECRET
    assert not (elsewhere / "made").exists()
    assert run.plan.read_text() == "{}"


def test_tokens_of_another_project_are_not_carried_off(run: RunDirectory, tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens", limit_bytes=1000)
    theirs = store.folder("theirs")
    assert theirs is not None
    theirs.mkdir(parents=True)
    entry = theirs / f"{'a' * 64}.{hashlib.sha256(SECRET).hexdigest()}.safetensors"
    entry.write_bytes(SECRET)
    run.tokens.symlink_to(theirs)
    store.adopt(run.tokens, project="mine")
    assert entry.read_bytes() == SECRET


def test_a_checkpoint_of_links_never_verifies(run: RunDirectory, elsewhere: Path) -> None:
    folder = run.checkpoints / "step-00000001"
    folder.mkdir()
    (folder / "state").symlink_to(elsewhere / "admin.key")
    files = {"state": {"bytes": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}}
    (folder / "manifest.json").write_text(CheckpointManifest(step=1, files=files).model_dump_json())
    with pytest.raises(CorruptCheckpoint):
        verify_checkpoint(folder)


def test_a_stored_log_has_no_secret_of_the_worker_in_it(
    run: RunDirectory, control: HttpAttemptControl, service: ScriptedService
) -> None:
    run.log.write_text("step 1\nkey is sesame-open\nAuthorization: Bearer abc.def-123456789\nstep 2\n")
    upload_log(run, control, secrets=("sesame-open",), cap_bytes=1024**2)
    (sent,) = [request.body.decode() for request in service.requests if request.method == "PUT"]
    assert "sesame" not in sent
    assert "abc.def" not in sent
    assert sent.startswith("step 1\n")
    assert json.loads(service.to("/artifacts")[0].body)["kind"] == "log"


@pytest.mark.parametrize("left", ["link", "pipe"])
def test_links_and_pipes_in_place_of_lines_and_results_are_not_read(
    run: RunDirectory, tmp_path: Path, control: HttpAttemptControl, service: ScriptedService, left: str
) -> None:
    """Of another run they would be somebody else's history; a pipe would be waited at for ever."""
    other = RunDirectory(tmp_path / "other")
    other.root.mkdir()
    append_line(other.events, {"message": SECRET.decode()})
    append_line(other.metrics, {"step": 1, "train_loss": 1.0})
    other.phase.write_text("training")
    other.result.write_text(TrainResult().model_dump_json())
    other.canary.write_text("{}")
    for name in ("events", "metrics", "phase", "result", "canary"):
        place, target = getattr(run, name), getattr(other, name)
        place.symlink_to(target) if left == "link" else os.mkfifo(place)
    directives = StopRequests(drain_deadline=lambda: None)
    follower = Follower(run, control, progress=Progress(total_steps=1), directives=directives, log=get_logger())
    follower.ship()
    assert service.requests == []
    with pytest.raises(NotPlain):
        run.read_result()
