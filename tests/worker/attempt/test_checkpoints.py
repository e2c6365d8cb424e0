"""A checkpoint is used only when every byte is what was registered; otherwise the one before it is."""

import shutil
import threading
from pathlib import Path

import pytest
from structlog.typing import FilteringBoundLogger

from tests.waiting import PATIENCE_SECONDS, eventually
from tests.worker.conftest import ref
from tests.worker.scripted_service import Reply, Request, ScriptedService
from tunesmith.tuning.messages import CheckpointRef
from tunesmith.worker.attempt.checkpoints import CheckpointUploader, describe, find_resumable
from tunesmith.worker.attempt.stop_requests import StopRequest, StopRequests
from tunesmith.worker.hashes import sha256_of
from tunesmith.worker.manifests import CheckpointManifest, CorruptCheckpoint, checkpoint_name, verify_checkpoint
from tunesmith.worker.run_directory import RunDirectory, write_atomically
from tunesmith.worker.transport.control import HttpAttemptControl


def make_checkpoint(folder: Path, *, step: int) -> CheckpointRef:
    """A checkpoint as the trainer writes it."""
    home = folder / checkpoint_name(step)
    home.mkdir(parents=True)
    files = {}
    for name in ("adapter.safetensors", "state.json"):
        (home / name).write_bytes(f"{name} after {step} steps".encode() * 50)
        described = ref(name, (home / name).read_bytes())
        files[name] = {"bytes": described.bytes, "sha256": described.sha256}
    write_atomically(home / "manifest.json", CheckpointManifest(step=step, files=files).model_dump_json())
    report = describe(home)
    return CheckpointRef(step=step, manifest_sha256=report.manifest_sha256, files=report.files)


def serve(folder: Path, service: ScriptedService) -> None:
    """Let the service have every file below a folder as a blob."""
    blobs = {sha256_of(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def answer(request: Request) -> Reply:
        content = blobs.get(request.path.rpartition("/")[2])
        if request.method != "GET":
            return Reply()
        return Reply.error(404, "blob_not_found") if content is None else Reply(200, content)

    service.otherwise = answer


@pytest.mark.parametrize("name", ["adapter.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_never_verifies(tmp_path: Path, name: str) -> None:
    choice = make_checkpoint(tmp_path, step=4)
    damaged = tmp_path / checkpoint_name(4) / name
    written = damaged.read_bytes()
    half = len(written) // 2
    flipped = written[:half] + bytes([written[half] ^ 1]) + written[half + 1 :]
    for left in (None, b"", written[:1], written[:half], written[:-1], flipped, written + b"x", b"{}"):
        damaged.unlink()
        if left is not None:
            damaged.write_bytes(left)
        with pytest.raises(CorruptCheckpoint):
            verify_checkpoint(damaged.parent, manifest_sha256=choice.manifest_sha256)
        damaged.touch()
    damaged.write_bytes(written)
    assert verify_checkpoint(damaged.parent, manifest_sha256=choice.manifest_sha256).step == 4


@pytest.mark.parametrize("name", ["../secret", "below/state.json", "/etc/passwd"])
def test_a_manifest_that_points_out_of_its_folder_never_verifies(tmp_path: Path, name: str) -> None:
    make_checkpoint(tmp_path, step=4)
    manifest = tmp_path / checkpoint_name(4) / "manifest.json"
    manifest.write_text(manifest.read_text().replace("state.json", name))
    with pytest.raises(CorruptCheckpoint, match="not the name of a file"):
        verify_checkpoint(manifest.parent)


def test_a_fetched_checkpoint_that_is_not_the_registered_one_is_passed_over(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    """Every file has the hash that its name promises; that they belong together, only the manifest says."""
    choice = make_checkpoint(tmp_path / "store", step=4)
    serve(tmp_path, service)
    others = choice.model_copy(update={"manifest_sha256": "0" * 64})
    partial = choice.model_copy(update={"files": choice.files[1:]})
    for wrong in (others, partial):
        assert find_resumable((wrong,), earlier_runs=[], target=tmp_path / "resume", control=control) is None
    assert find_resumable((choice,), earlier_runs=[], target=tmp_path / "resume", control=control) is not None


def test_a_copy_on_this_host_is_used_without_fetching(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    earlier = tmp_path / "earlier"
    choice = make_checkpoint(earlier / "checkpoints", step=4)
    found = find_resumable((choice,), earlier_runs=[earlier], target=tmp_path / "resume", control=control)
    assert found == earlier / "checkpoints" / checkpoint_name(4)
    assert service.requests == []


def test_a_damaged_copy_on_this_host_is_replaced_from_the_store(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    earlier = tmp_path / "earlier"
    choice = make_checkpoint(earlier / "checkpoints", step=4)
    serve(tmp_path, service)
    (earlier / "checkpoints" / checkpoint_name(4) / "state.json").write_bytes(b"torn")
    found = find_resumable((choice,), earlier_runs=[earlier], target=tmp_path / "resume", control=control)
    assert found == tmp_path / "resume" / checkpoint_name(4)
    verify_checkpoint(found, manifest_sha256=choice.manifest_sha256)


def test_a_copy_on_this_host_of_another_checkpoint_is_not_used(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    choice = make_checkpoint(tmp_path / "store", step=4)
    serve(tmp_path / "store", service)
    make_checkpoint(tmp_path / "earlier" / "checkpoints", step=4)
    manifest = tmp_path / "earlier" / "checkpoints" / checkpoint_name(4) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"world_size":1', '"world_size":2'))
    verify_checkpoint(manifest.parent)
    found = find_resumable((choice,), earlier_runs=[tmp_path / "earlier"], target=tmp_path / "resume", control=control)
    assert found == tmp_path / "resume" / checkpoint_name(4)


def test_a_fetched_checkpoint_that_is_not_what_its_manifest_says_is_passed_over(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    choice = make_checkpoint(tmp_path / "store", step=4)
    (tmp_path / "store" / checkpoint_name(4) / "state.json").write_bytes(b"of another run")
    serve(tmp_path / "store", service)
    files = tuple(ref(file.name, b"of another run") if file.name == "state.json" else file for file in choice.files)
    mixed = choice.model_copy(update={"files": files})
    assert find_resumable((mixed,), earlier_runs=[], target=tmp_path / "resume", control=control) is None
    (event,) = service.to("/events")
    assert "state.json is missing or altered" in event.json["message"]


def test_an_older_checkpoint_steps_in_and_the_history_says_so(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    older = make_checkpoint(tmp_path / "store", step=4)
    newer = make_checkpoint(tmp_path / "store", step=8)
    shutil.rmtree(tmp_path / "store" / checkpoint_name(8))
    serve(tmp_path / "store", service)
    found = find_resumable((newer, older), earlier_runs=[], target=tmp_path / "resume", control=control)
    assert found == tmp_path / "resume" / checkpoint_name(4)
    (event,) = service.to("/events")
    assert event.json["level"] == "warn"
    assert "step 8" in event.json["message"]


def test_without_a_usable_checkpoint_training_starts_at_the_beginning(
    tmp_path: Path, control: HttpAttemptControl, service: ScriptedService
) -> None:
    choice = make_checkpoint(tmp_path / "store", step=4)
    service.otherwise = lambda request: Reply() if request.method == "POST" else Reply.error(404, "blob_not_found")
    assert find_resumable((choice,), earlier_runs=[], target=tmp_path / "resume", control=control) is None


@pytest.fixture
def uploader(run: RunDirectory, control: HttpAttemptControl, log: FilteringBoundLogger) -> CheckpointUploader:
    directives = StopRequests(drain_deadline=lambda: None)
    return CheckpointUploader(run.checkpoints, control, directives=directives, log=log, interval_seconds=0.02)


def test_a_checkpoint_is_registered_after_all_its_files_are_sent(
    run: RunDirectory, uploader: CheckpointUploader, service: ScriptedService
) -> None:
    registered = threading.Event()

    def answer(request: Request) -> Reply:
        if request.path.endswith("/checkpoints"):
            registered.set()
        return Reply()

    service.otherwise = answer
    choice = make_checkpoint(run.checkpoints, step=4)
    uploader.start()
    assert registered.wait(PATIENCE_SECONDS)
    uploader.stop()
    assert [request.method for request in service.requests] == ["PUT", "PUT", "PUT", "POST"]
    report = service.requests[-1].json
    assert (report["step"], report["manifest_sha256"]) == (4, choice.manifest_sha256)
    assert {file["name"] for file in report["files"]} == {"adapter.safetensors", "state.json", "manifest.json"}


def test_a_checkpoint_waits_until_the_metrics_of_its_step_are_handed_over(
    run: RunDirectory, control: HttpAttemptControl, service: ScriptedService, log: FilteringBoundLogger
) -> None:
    asked: list[int] = []

    def recorded() -> float:
        asked.append(len(service.to("/checkpoints")))
        return 4 if len(asked) < 20 else 8

    directives = StopRequests(drain_deadline=lambda: None)
    uploader = CheckpointUploader(
        run.checkpoints, control, directives=directives, log=log, recorded=recorded, interval_seconds=0.01
    )
    make_checkpoint(run.checkpoints, step=8)
    uploader.start()
    eventually(lambda: service.to("/checkpoints"))
    uploader.stop()
    assert asked[:20] == [0] * 20
    assert [request.json["step"] for request in service.to("/checkpoints")] == [8]


def test_an_error_that_nobody_foresaw_does_not_end_the_uploads(
    run: RunDirectory, control: HttpAttemptControl, service: ScriptedService, log: FilteringBoundLogger
) -> None:
    surprises: list[Exception] = [RuntimeError("no memory"), PermissionError("no entry")]

    def recorded() -> float:
        if surprises:
            raise surprises.pop()
        return 4

    directives = StopRequests(drain_deadline=lambda: None)
    uploader = CheckpointUploader(
        run.checkpoints, control, directives=directives, log=log, recorded=recorded, interval_seconds=0.01
    )
    make_checkpoint(run.checkpoints, step=4)
    uploader.start()
    eventually(lambda: service.to("/checkpoints"), seconds=20, what="the checkpoint")
    uploader.stop()
    assert [request.json["step"] for request in service.to("/checkpoints")] == [4]


def test_a_folder_that_a_trainer_names_like_a_checkpoint_is_passed_over(
    run: RunDirectory, uploader: CheckpointUploader, control: HttpAttemptControl, service: ScriptedService
) -> None:
    make_checkpoint(run.checkpoints, step=4)
    for name in ("step-last", "step-", "step-¹"):
        (run.checkpoints / name).mkdir()
    uploader.flush(control)
    assert [request.json["step"] for request in service.to("/checkpoints")] == [4]


def test_only_the_newest_of_several_waiting_checkpoints_is_sent(
    run: RunDirectory, uploader: CheckpointUploader, control: HttpAttemptControl, service: ScriptedService
) -> None:
    for step in (1, 2, 3):
        make_checkpoint(run.checkpoints, step=step)
    uploader.flush(control)
    uploader.flush(control)
    assert [request.json["step"] for request in service.to("/checkpoints")] == [3]


def test_a_folder_without_a_manifest_is_no_checkpoint(
    run: RunDirectory, uploader: CheckpointUploader, control: HttpAttemptControl, service: ScriptedService
) -> None:
    (run.checkpoints / checkpoint_name(9)).mkdir()
    uploader.flush(control)
    assert service.requests == []


def test_a_lost_lease_stops_the_uploads(
    run: RunDirectory, control: HttpAttemptControl, service: ScriptedService, log: FilteringBoundLogger
) -> None:
    service.otherwise = lambda _request: Reply.error(409, "lease_lost")
    directives = StopRequests(drain_deadline=lambda: None)
    uploader = CheckpointUploader(run.checkpoints, control, directives=directives, log=log, interval_seconds=0.02)
    make_checkpoint(run.checkpoints, step=1)
    uploader.start()
    uploader._thread.join(PATIENCE_SECONDS)
    assert directives.current() is StopRequest.LEASE_LOST
