"""Whatever is killed at whichever point, the job ends right, once, and with the bytes of an undisturbed run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stack.services import Services
from tests.stack.worker import Worker, trainers_below
from tests.waiting import eventually

EPOCHS = 4  # 40 steps with a checkpoint after each quarter
TRAINERS_POINTS = ("inside_checkpoint", "before_manifest", "after_rename")
POINTS = ("after_claim", "after_spawn", "mid_upload", "after_upload", *TRAINERS_POINTS)
PATIENCE_SECONDS = 600.0

pytestmark = pytest.mark.timeout(1500)  # the first test starts everything


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
    stack.wait_for_status(job_id, "succeeded", seconds=PATIENCE_SECONDS)
    assert worker.terminate() == 0
    return weights(stack, job_id)


@pytest.mark.slow
def test_a_job_outlives_a_kill_of_its_worker_and_one_of_its_trainer(stack: Services, tmp_path: Path) -> None:
    """A slice of the grid below with one start of everything; every fault happens once, so the second job has none."""
    worker = start_worker_with(stack, "after_claim=kill before_manifest=kill", marks=tmp_path)
    disturbed, undisturbed = submit(stack), submit(stack)

    assert_ended_right(stack, disturbed, outcomes=["lost", "failed", "succeeded"])
    assert_ended_right(stack, undisturbed, outcomes=["succeeded"])
    assert {mark.name for mark in tmp_path.iterdir()} == {"after_claim", "before_manifest"}
    assert weights(stack, disturbed) == weights(stack, undisturbed)
    assert_leaves_nothing(stack, worker)


@pytest.mark.chaos
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_a_point_changes_neither_the_end_nor_a_byte(
    stack: Services, undisturbed: str, tmp_path: Path, point: str
) -> None:
    worker = start_worker_with(stack, f"{point}=kill", marks=tmp_path)
    job_id = submit(stack)

    ended = "failed" if point in TRAINERS_POINTS else "lost"
    assert_ended_right(stack, job_id, outcomes=[ended, "succeeded"])
    assert [mark.name for mark in tmp_path.iterdir()] == [point], "the fault did not happen"
    assert weights(stack, job_id) == undisturbed
    assert_leaves_nothing(stack, worker)


def start_worker_with(stack: Services, faults: str, *, marks: Path) -> Worker:
    """Each fault leaves its mark in a folder. Within the sandbox no trainer could."""
    return stack.start_worker(TUNESMITH_FAULTS=faults, TUNESMITH_FAULTS_FOLDER=str(marks), TUNESMITH_SANDBOX="off")


def submit(stack: Services) -> str:
    return stack.submit(held_out_rows=0, epochs=EPOCHS, seed=11, lora={"rank": 4, "dropout": 0.1})


def assert_ended_right(stack: Services, job_id: str, *, outcomes: list[str]) -> None:
    """With these attempts, each step once, and a history without a gap."""
    job = stack.wait_for_status(job_id, "succeeded", seconds=PATIENCE_SECONDS)
    assert [attempt["outcome"] for attempt in stack.attempts(job_id)] == outcomes
    assert stack.steps(job_id) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))
    seqs = [seq for (seq,) in stack.query("SELECT seq FROM events WHERE job_id = %s ORDER BY seq", job_id)]
    assert seqs == list(range(1, len(seqs) + 1))


def assert_leaves_nothing(stack: Services, worker: Worker) -> None:
    assert worker.terminate() == 0
    eventually(lambda: not trainers_below(stack.root), seconds=30, what="the end of every trainer")


def weights(stack: Services, job_id: str) -> str:
    """The hash of the adapter, as the service has it."""
    artifacts = stack.get(f"/v1/fine_tuning/jobs/{job_id}/artifacts")["data"]
    (found,) = (
        file for one in artifacts if one["kind"] == "adapter" for file in one["files"] if "model" in file["name"]
    )
    return str(found["sha256"])
