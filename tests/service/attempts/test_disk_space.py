"""A worker says what is free on its disk and which models lie there; a job that needs more is not claimed."""

from tests.control_plane import ControlPlane
from tests.machines import CPU
from tunesmith.service.keeper.waiting_jobs import wake_for_waiting_jobs
from tunesmith.tuning.messages import FileRef, set_digest
from tunesmith.tuning.values.units import GIB

FULL = CPU.model_copy(update={"disk_free_bytes": 1024})
WEIGHTS = GIB


def enlarge_the_model(plane: ControlPlane) -> str:
    """Let the model's weights be a gibibyte, and return the digest of its files."""
    plane.sql("UPDATE models SET files = jsonb_set(files, '{1,bytes}', to_jsonb(%s::bigint))", WEIGHTS)
    ((files,),) = plane.sql("SELECT files FROM models")
    return set_digest(tuple(FileRef.model_validate(file) for file in files))


def test_a_worker_whose_disk_is_too_small_is_not_given_the_job_which_says_why(control_plane: ControlPlane) -> None:
    job = control_plane.create_job()
    worker = control_plane.worker(hardware=FULL)
    assert worker.claim() is None
    control_plane.keep(wake_for_waiting_jobs)
    reason = control_plane.job(job["id"])["tunesmith"]["waiting_reason"]
    assert "on the worker's disk" in reason
    assert "0.0 MiB are free" in reason


def test_the_same_worker_takes_it_when_there_is_room_again(control_plane: ControlPlane) -> None:
    job = control_plane.create_job()
    assert control_plane.worker("full", hardware=FULL).claim() is None
    attempt = control_plane.worker("full").claim()
    assert attempt is not None
    assert attempt.job_id == job["id"]


def test_a_model_needs_room_only_where_it_does_not_lie_already(control_plane: ControlPlane) -> None:
    digest = enlarge_the_model(control_plane)
    control_plane.create_job()
    tight = CPU.model_copy(update={"disk_free_bytes": WEIGHTS - 1024**2, "kept_models": ()})
    assert control_plane.worker("without", hardware=tight).claim() is None
    keeping = tight.model_copy(update={"kept_models": (digest,)})
    assert control_plane.worker("with", hardware=keeping).claim() is not None


def test_a_disk_that_is_full_for_now_is_no_reason_to_refuse_a_job_for_good(control_plane: ControlPlane) -> None:
    control_plane.worker(hardware=FULL)
    job = control_plane.create_job(tunesmith={"method": "lora"})
    assert job["status"] == "queued"
