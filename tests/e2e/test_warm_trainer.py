"""The worker keeps a warm process for each slot: jobs start from it, and none depends on it."""

import contextlib
import json
import os
import signal
from typing import Any

import psutil
import pytest

from tests.stack.services import Services
from tests.stack.worker import Worker
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(400)


@pytest.mark.slow
def test_jobs_are_forked_and_outlive_the_death_of_the_warm_process(stack: Services, worker: Worker) -> None:
    first = stack.submit(epochs=12)
    worker.freeze_trainer(first, when=lambda run: (run / "timeline.jsonl").exists())
    (idle,) = eventually(lambda: warm_processes(worker), what="the warm process that it was forked from")
    idle.kill()
    worker.thaw_trainer()
    stack.wait_for_status(first, "succeeded")
    assert started(worker, first) == ["warm"]
    assert [attempt["outcome"] for attempt in stack.attempts(first)] == ["succeeded"]

    starts = []
    for _ in range(2):  # the pool process replaces its warm one after a job
        job = stack.submit()
        stack.wait_for_status(job, "succeeded")
        starts += started(worker, job)
    assert starts[-1] == "warm", starts
    assert not alive(idle)


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_an_equal_job_is_spared_the_canary(stack: Services) -> None:
    messages = []
    for _ in range(2):
        job = stack.submit()
        stack.wait_for_status(job, "succeeded")
        messages.append(stack.messages(job))
    assert any(message.startswith("Canary step") for message in messages[0])
    assert any(message.startswith("No canary step: an equal run on this worker") for message in messages[1])
    assert not any(message.startswith("Canary step") for message in messages[1])


@pytest.mark.slow
def test_two_slots_train_two_forks_at_once(stack: Services, worker_of_two_slots: Worker) -> None:
    worker = worker_of_two_slots
    jobs = [stack.submit(epochs=12), stack.submit(epochs=12)]
    running = eventually(lambda: len(found := sessions(worker)) == 2 and found, what="two trainers at once")
    assert len({psutil.Process(leader).environ()["TUNESMITH_RUN_DIR"] for leader in running}) == 2
    for job in jobs:
        stack.wait_for_status(job, "succeeded")
        assert started(worker, job) == ["warm"]


@pytest.mark.slow
def test_a_killed_worker_leaves_neither_trainer_nor_warm_process(stack: Services, worker_of_two_slots: Worker) -> None:
    worker = worker_of_two_slots
    job = stack.submit(epochs=50)
    worker.freeze_trainer(job, when=lambda run: (run / "metrics.jsonl").exists())
    left = [*worker.trainers(), *warm_processes(worker)]
    assert len(left) == 3
    worker.thaw_trainer()
    for process in warm_processes(worker):
        process.send_signal(signal.SIGSTOP)
    worker.kill()
    eventually(lambda: not any(alive(process) for process in left), seconds=30, what="the end of all of them")
    with stack.openai() as client:
        client.fine_tuning.jobs.cancel(job)


@pytest.mark.slow
def test_a_worker_that_is_told_to_keeps_nothing_warm(stack: Services) -> None:
    cold = stack.start_worker(TUNESMITH_WARM_TRAINER="false")
    try:
        job = stack.submit()
        stack.wait_for_status(job, "succeeded")
        assert started(cold, job) == ["plain"]
        assert warm_processes(cold) == []
    finally:
        cold.kill()


def warm_processes(worker: Worker) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(worker.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "tunesmith.worker.train.warm" in process.cmdline() and process.name() != "trainer":
                found.append(process)
    return found


def sessions(worker: Worker) -> set[int]:
    """The processes of a trainer share the session of the one that the worker knows."""
    return {os.getsid(process.pid) for process in worker.trainers()}


def started(worker: Worker, job_id: str) -> list[str]:
    """How each trainer of the job was started."""
    return [record["start"] for record in log_of(worker) if record.get("job_id") == job_id and "start" in record]


def log_of(worker: Worker) -> list[dict[str, Any]]:
    lines = worker.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
