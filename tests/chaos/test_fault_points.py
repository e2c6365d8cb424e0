"""Whatever is killed at whichever point, the job ends right, once, and with the bytes of an undisturbed run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack.services import Services
from tests.stack.worker import trainers_below
from tests.waiting import eventually

WEIGHTS = "adapter_model.safetensors"
EPOCHS = 4  # 40 steps with a checkpoint after each quarter
TRAINERS_POINTS = ("inside_checkpoint", "before_manifest", "after_rename")
POINTS = ("after_claim", "after_spawn", "mid_upload", "after_upload", *TRAINERS_POINTS)

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str], redis_url: str
) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("stack"), database_url=new_database_url(), redis_url=redis_url)
    try:
        services.start()
        services.register_model()
        yield services
    finally:
        services.stop()


@pytest.fixture(scope="module")
def undisturbed(stack: Services) -> str:
    """The hash of the weights of a run without a fault."""
    worker = stack.start_worker()
    job_id = submit(stack)
    stack.wait_for_status(job_id, "succeeded")
    assert worker.terminate() == 0
    return weights(stack, job_id)


@pytest.mark.chaos
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_point_changes_neither_the_end_nor_a_byte(
    stack: Services, undisturbed: str, tmp_path: Path, point: str
) -> None:
    worker = stack.start_worker(
        TUNESMITH_FAULTS=f"{point}=kill",
        TUNESMITH_FAULTS_FOLDER=str(tmp_path),
        TUNESMITH_SANDBOX="off",  # from within it no trainer could leave its mark in the folder
    )
    job_id = submit(stack)
    job = stack.wait_for_status(job_id, "succeeded")

    assert [mark.name for mark in tmp_path.iterdir()] == [point], "the fault did not happen"
    ended = "failed" if point in TRAINERS_POINTS else "lost"
    assert [attempt["outcome"] for attempt in stack.attempts(job_id)] == [ended, "succeeded"]
    assert stack.steps(job_id) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))
    seqs = [seq for (seq,) in stack.query("SELECT seq FROM events WHERE job_id = %s ORDER BY seq", job_id)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert weights(stack, job_id) == undisturbed
    assert worker.terminate() == 0
    eventually(lambda: not trainers_below(stack.root), seconds=10, what="the end of every trainer")


def submit(stack: Services) -> str:
    return stack.submit(held_out_rows=0, epochs=EPOCHS, seed=11, lora={"rank": 4, "dropout": 0.1})


def weights(stack: Services, job_id: str) -> str:
    """The hash of the adapter, as the service has it."""
    artifacts = stack.get(f"/v1/fine_tuning/jobs/{job_id}/artifacts")["data"]
    (found,) = (
        file for one in artifacts if one["kind"] == "adapter" for file in one["files"] if "model" in file["name"]
    )
    return str(found["sha256"])
