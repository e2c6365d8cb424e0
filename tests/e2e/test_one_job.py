"""One job from upload to artifact, through the `openai` client and real processes; and one that is disturbed."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection

from tests.stack.installation import MODEL, chat_rows
from tests.stack.services import Services
from tests.stack.worker import Worker, trainers_below
from tests.waiting import eventually
from tunesmith.cli.access.join_line import join_line
from tunesmith.local.embedded.valkey import ValkeyServer
from tunesmith.tuning.api.access.invitations import NewInvitation

pytestmark = pytest.mark.timeout(400)
EPOCHS = 6  # 60 steps with a checkpoint after each quarter
_WORKER_PROGRAM = Path(sys.executable).with_name("tunesmith-worker")


@pytest.fixture(scope="module")
def first_worker(stack: Services) -> Iterator[Worker]:
    """The only worker while the last two tests run, which share it; the last one kills it."""
    started = stack.start_worker()
    yield started
    stack.cancel_everything()
    started.kill()


@pytest.fixture(scope="module")
def undisturbed(stack: Services, first_worker: Worker) -> str:
    """A job that nothing happens to."""
    job_id = submit(stack)
    stack.wait_for_status(job_id, "succeeded")
    assert first_worker.trainers() == []
    return job_id


def submit(stack: Services) -> str:
    return stack.submit(epochs=EPOCHS, seed=11, lora={"rank": 4, "dropout": 0.1})


@pytest.mark.slow
@pytest.mark.usefixtures("worker")
def test_a_job_whose_validation_gets_worse_stops_early_with_its_best_weights(stack: Services) -> None:
    job_id = submit_contradiction(stack, epochs=20, patience=2)
    job = stack.wait_for_status(job_id, "succeeded")
    ours, points = job["tunesmith"], stack.metrics(job_id)
    losses = {point["step"]: point["valid_loss"] for point in points if point["step"] and point["valid_loss"]}
    best = min(losses, key=losses.__getitem__)

    assert job["hyperparameters"]["early_stopping_patience"] == ours["plan"]["early_stopping_patience"] == 2
    assert ours["progress"]["step"] == ours["result"]["steps"] == points[-1]["step"] == max(losses)
    assert (
        ours["progress"]["step"] == best + 2 * ours["plan"]["evaluation_interval_steps"] < ours["plan"]["total_steps"]
    )
    assert (ours["result"]["best_step"], ours["result"]["final_valid_loss"]) == (best, losses[best])
    told = stack.messages(job_id)
    assert any(f"The result holds the weights of step {best}" in message for message in told)
    samples = stack.get(f"/v1/fine_tuning/jobs/{job_id}/samples")["data"]
    asked_at = [answer["step"] for answer in samples[0]["answers"]]
    assert asked_at[0] == 0
    assert set(asked_at[1:]) <= set(losses)  # at evaluations, as far as their share of the time allows


def submit_contradiction(stack: Services, *, epochs: int, patience: int) -> str:
    """A job whose held-out answers contradict its training rows: the more it learns, the worse it gets."""
    contradiction = chat_rows(4).replace(b"It is", b"France? No, Paris, not")
    asked = {"n_epochs": epochs, "batch_size": 4, "early_stopping_patience": patience}
    with stack.openai() as client:
        training = client.files.create(file=("train.jsonl", chat_rows(16)), purpose="fine-tune")
        validation = client.files.create(file=("valid.jsonl", contradiction), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=MODEL,
            training_file=training.id,
            validation_file=validation.id,
            seed=1,
            method={"type": "supervised", "supervised": {"hyperparameters": asked}},
            extra_body={"tunesmith": {"method": "lora", "lora": {"rank": 4}, "learning_rate": 0.05}},
        )
    return job.id


@pytest.mark.slow
def test_a_job_too_big_for_every_worker_waits_and_says_why(stack: Services) -> None:
    small = stack.start_worker(TUNESMITH_CPU_MEMORY_GIB="0.05", TUNESMITH_MEASURE_CONSTANTS="true")
    try:
        job_id = stack.submit(method="auto")
        # until the worker has registered, the reason is that there is none
        eventually(
            lambda: "GiB" in (stack.job(job_id)["tunesmith"]["waiting_reason"] or ""), what="a reason with numbers"
        )
        assert stack.job(job_id)["status"] == "queued"
        assert json.loads((small.work_dir / "constants.json").read_text())["constants"]["process_bytes"] > 0
        with stack.openai() as client:
            assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
    finally:
        small.kill()


@contextmanager
def machine(home: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The worker's program in a home of its own, with no setting of this machine's but how little it may use."""
    environment = {
        "HOME": str(home),
        "PATH": os.defpath,
        "TUNESMITH_MEASURE_CONSTANTS": "false",
        "TUNESMITH_GRACE_SECONDS": "30",
        "OMP_THREAD_LIMIT": "1",
    }
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(_WORKER_PROGRAM), *words], env=environment, cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for trainer in trainers_below(home):
            trainer.kill()


def test_a_machine_joins_by_the_printed_line_and_trains_without_a_broker(stack: Services, tmp_path: Path) -> None:
    with stack.http(stack._admin_key) as admin:
        answer = admin.post("/v1/workers/invitations", json={"name": "second machine"}).raise_for_status()
    invitation = NewInvitation.model_validate_json(answer.content, extra="allow")
    assert invitation.url == stack.url
    words = shlex.split(join_line(invitation, url=stack.url).rpartition(" && ")[2])[1:]
    with machine(tmp_path, *words) as worker:
        log = tmp_path / "log"
        eventually(lambda: "worker.registered" in log.read_text() or worker.poll() is not None, what=log.read_text)
        eventually(lambda: "worker.wake_ups" in log.read_text(), what=log.read_text)
        job_id = stack.submit(rows=8, held_out_rows=0)
        stack.wait_for_status(job_id, "succeeded")
        assert '"by": "http", "broker": "none"' in log.read_text(), log.read_text()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, log.read_text()
    with machine(tmp_path, *words) as again:
        assert again.wait(60) == 1
    assert "A worker has joined with this token already" in (tmp_path / "log").read_text()


def test_a_job_is_taken_while_the_broker_is_away_and_by_it_when_it_is_back(stack: Services, tmp_path: Path) -> None:
    valkey = ValkeyServer(tmp_path, log=tmp_path / "valkey.log")
    worker = stack.start_worker(REDIS_URL=valkey.url)
    eventually(lambda: worker.said("broker.away"), what=worker.log.read_text)
    stack.wait_for_status(stack.submit(rows=8, held_out_rows=0), "succeeded")
    with valkey, Connection(valkey.url) as connection:
        eventually(lambda: worker.said("broker.back"), what=worker.log.read_text)
        queue = connection.default_channel.client
        queue.rpush(f"wake.{cpu_class(stack)}", b"a wake-up")
        eventually(lambda: not queue.llen(f"wake.{cpu_class(stack)}"), what=worker.log.read_text)
        assert worker.terminate() == 0, worker.log.read_text()


def cpu_class(stack: Services) -> str:
    with stack.http(stack._admin_key) as admin:
        return str(admin.get("/v1/workers").raise_for_status().json()["data"][0]["worker_class"])


def test_a_lora_job_succeeds_and_its_artifact_has_the_promised_bytes(stack: Services, undisturbed: str) -> None:
    job = stack.job(undisturbed)
    assert job["tunesmith"]["method"] == "lora"
    assert job["trained_tokens"] > 0
    assert job["fine_tuned_model"].startswith("ft:tiny-llama:")
    assert stack.last_step(undisturbed) == job["tunesmith"]["plan"]["total_steps"]
    assert_canary_is_told(stack, undisturbed)
    assert_adapter_is_whole(stack, undisturbed)


def assert_canary_is_told(stack: Services, job_id: str) -> None:
    messages = stack.messages(job_id)
    assert any("started" in message for message in messages)
    assert any(message.startswith("Canary step") and "predicted" in message for message in messages)
    (attempt,) = stack.attempts(job_id)
    assert attempt["canary"]["peak_memory_bytes"] > 0
    assert attempt["canary"]["memory_ratio"] > 0
    assert attempt["canary"]["expected_seconds"] > 0


def assert_adapter_is_whole(stack: Services, job_id: str) -> None:
    artifacts = {a["kind"]: a for a in stack.get(f"/v1/fine_tuning/jobs/{job_id}/artifacts")["data"]}
    assert {"adapter", "log"} <= set(artifacts)
    adapter = artifacts["adapter"]
    assert "adapter_model.safetensors" in [file["name"] for file in adapter["files"]]
    with stack.http() as client:
        for file in adapter["files"]:
            content = client.get(f"/v1/artifacts/{adapter['id']}/files/{file['name']}").content
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (file["sha256"], file["bytes"])


def test_a_job_survives_the_sigkill_of_its_whole_worker(
    stack: Services, undisturbed: str, first_worker: Worker
) -> None:
    job_id = submit(stack)
    first_worker.freeze_trainer(job_id, when=has_checkpoint)
    stack.wait_for_checkpoint(job_id)
    first_worker.thaw_trainer()
    first_worker.kill()
    eventually(lambda: not first_worker.trainers(), seconds=30, what="the end of the orphaned trainer")
    successor = stack.start_worker(work_dir=first_worker.work_dir)
    try:
        job = stack.wait_for_status(job_id, "succeeded")
    finally:
        successor.kill()
    assert [attempt["outcome"] for attempt in stack.attempts(job_id)] == ["lost", "succeeded"]
    assert_resumed(stack, job_id, total_steps=job["tunesmith"]["plan"]["total_steps"])
    assert weights(stack, job_id) == weights(stack, undisturbed)
    assert any("tokenised by an earlier run" in message for message in stack.messages(job_id))


def weights(stack: Services, job_id: str) -> str:
    """The hash of the adapter, as the service has it."""
    (adapter,) = (a for a in stack.get(f"/v1/fine_tuning/jobs/{job_id}/artifacts")["data"] if a["kind"] == "adapter")
    return str({file["name"]: file["sha256"] for file in adapter["files"]}["adapter_model.safetensors"])


def has_checkpoint(run: Path) -> bool:
    return any(run.glob("checkpoints/step-*"))


def assert_resumed(stack: Services, job_id: str, *, total_steps: int) -> None:
    """The second attempt went on where a checkpoint was, and together they recorded every step once."""
    first_attempt, second_attempt = stack.first_steps(job_id).values()
    assert first_attempt <= 1
    assert second_attempt > 1
    assert stack.steps(job_id) == list(range(1, total_steps + 1))
