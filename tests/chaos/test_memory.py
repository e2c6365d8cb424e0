"""A host whose memory runs out under a run: the trainer ends, the worker lives and says why, and the job goes on."""

import contextlib
from collections.abc import Iterator

import psutil
import pytest

from tests.chaos.quick_installation import installation, submit
from tests.stack.memory_group import MemoryGroup, memory_group
from tests.stack.up import Up, short_folder
from tests.stack.worker import Worker
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MIB = 1024**2
GROWN_BYTES = 100 * MIB  # of some 400


@pytest.fixture
def up() -> Iterator[Up]:
    """Trainers begin from nothing here, so that one takes more memory for as long as it starts."""
    with short_folder() as folder, installation(folder, "--no-worker", TUNESMITH_WARM_TRAINER="false") as running:
        yield running


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group() as made:
        yield made


def test_a_trainer_that_the_kernel_kills_for_memory_is_said_to_be_and_its_worker_lives(
    group: MemoryGroup, up: Up
) -> None:
    worker = up.start_worker("cramped")
    group.add(worker.process.pid)
    job_id = submit(up, rows=8, epochs=1)
    eventually(lambda: is_importing(worker), pause_seconds=0.01, what=lambda: f"a trainer\n{up.logs()}")
    eventually(lambda: is_held(group), pause_seconds=0.01, what="a limit")
    eventually(lambda: up.attempts(job_id)[0]["failure"], what=lambda: f"its end\n{up.logs()}")
    group.release()

    first = up.attempts(job_id)[0]
    assert first["failure"]["code"] == "out_of_memory", first["failure"]
    assert "The kernel killed the trainer" in first["failure"]["message"]
    assert worker.process.poll() is None
    assert up.wait_for_end(job_id)["status"] == "succeeded"
    assert worker.terminate() == 0


def is_importing(worker: Worker) -> bool:
    """Whether a trainer has begun to take memory, and will take more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(trainer.memory_info().rss > GROWN_BYTES for trainer in worker.trainers())
    return False


def is_held(group: MemoryGroup) -> bool:
    try:
        group.hold(more_bytes=8 * MIB)
    except OSError:
        return False
    return True
