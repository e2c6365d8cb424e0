"""Whatever is killed in the middle of a run, the job finishes from its checkpoint and nothing stays behind.

The kill of a whole worker is tried in every `make test`, in `test_one_job.py`.
"""

import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.test_one_job import assert_resumed, has_checkpoint
from tests.stack.services import Services
from tests.stack.worker import Worker, trainers_below
from tests.waiting import eventually

EPOCHS = 12  # 120 steps with a checkpoint after each quarter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_job_survives_the_sigkill_of_its_trainer(stack: Services, worker: Worker) -> None:
    job_id = stack.submit(epochs=EPOCHS)
    worker.freeze_trainer(job_id, when=has_checkpoint)
    stack.wait_for_checkpoint(job_id)
    for trainer in worker.trainers():
        trainer.kill()
    job = stack.wait_for_status(job_id, "succeeded")

    first, second = stack.attempts(job_id)
    assert (first["outcome"], second["outcome"]) == ("failed", "succeeded")
    assert first["failure"]["category"] == "worker_lost"
    assert "SIGKILL" in first["failure"]["message"]
    assert_resumed(stack, job_id, total_steps=job["tunesmith"]["plan"]["total_steps"])


def test_a_cancelled_run_leaves_no_process(stack: Services, worker: Worker) -> None:
    job_id = stack.submit(epochs=50)
    eventually(lambda: stack.metrics(job_id), what="a first step")
    with stack.openai() as client:
        client.fine_tuning.jobs.cancel(job_id)
    stack.wait_for_status(job_id, "cancelled")

    assert trainers_below(stack.root) == []
    assert [attempt["outcome"] for attempt in stack.attempts(job_id)] == ["cancelled"]


def test_a_drained_worker_hands_its_job_to_the_next_one(stack: Services, worker: Worker) -> None:
    job_id = stack.submit(epochs=EPOCHS)
    worker.freeze_trainer(job_id, when=has_metrics)
    worker.thaw_trainer()
    started = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - started < 30, "the grace"
    assert not psutil.pid_exists(worker.process.pid)
    assert worker.trainers() == []
    assert [attempt["outcome"] for attempt in stack.attempts(job_id)] == ["preempted"]

    successor = stack.start_worker()  # on another machine, as far as the service can tell
    try:
        job = stack.wait_for_status(job_id, "succeeded")
        assert_resumed(stack, job_id, total_steps=job["tunesmith"]["plan"]["total_steps"])
    finally:
        successor.kill()


def test_a_run_goes_on_while_the_service_is_away_and_loses_nothing_measured(stack: Services, worker: Worker) -> None:
    job_id = stack.submit(epochs=EPOCHS)
    worker.freeze_trainer(job_id, when=has_metrics)
    stack.kill_api()
    worker.thaw_trainer()
    worker.freeze_trainer(job_id, when=has_checkpoint)  # the trainer went on without a service
    stack.start_api()
    worker.thaw_trainer()
    job = stack.wait_for_status(job_id, "succeeded")

    assert stack.steps(job_id) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))
    with stack.openai() as client:
        points = client.fine_tuning.jobs.checkpoints.list(job_id).data
    assert points


def has_metrics(run: Path) -> bool:
    return (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 0
