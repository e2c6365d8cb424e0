"""One job from upload to artifact, through the `openai` client and real processes."""

import json

import pytest

from tests.e2e.stack import Stack, Worker, eventually, sha256

pytestmark = pytest.mark.timeout(400)


def test_a_lora_job_succeeds_and_its_artifact_has_the_promised_bytes(stack: Stack, worker: Worker) -> None:
    job_id = stack.submit()
    job = stack.wait_for_status(job_id, "succeeded")

    assert job["tunesmith"]["method"] == "lora"
    assert job["trained_tokens"] > 0
    assert job["fine_tuned_model"].startswith("ft:tiny-llama:")
    assert [point["step"] for point in stack.metrics(job_id)][-1] == job["tunesmith"]["plan"]["total_steps"]
    with stack.openai() as client:
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job_id)]
    assert any("started" in message for message in messages)
    assert any(message.startswith("Canary step") and "predicted" in message for message in messages)
    (attempt,) = stack.get(f"/v1/fine_tuning/jobs/{job_id}/attempts")["data"]
    assert attempt["canary"]["peak_memory_bytes"] > 0
    assert attempt["canary"]["memory_ratio"] > 0
    assert attempt["canary"]["expected_seconds"] > 0

    artifacts = {a["kind"]: a for a in stack.get(f"/v1/fine_tuning/jobs/{job_id}/artifacts")["data"]}
    assert {"adapter", "log"} <= set(artifacts)
    names = [file["name"] for file in artifacts["adapter"]["files"]]
    assert "adapter_model.safetensors" in names
    with stack.http() as client:
        for file in artifacts["adapter"]["files"]:
            content = client.get(f"/v1/artifacts/{artifacts['adapter']['id']}/files/{file['name']}").content
            assert (sha256(content), len(content)) == (file["sha256"], file["bytes"])
    assert worker.trainers() == []

    again = stack.submit()
    stack.wait_for_status(again, "succeeded")
    with stack.openai() as client:
        messages = [event.message for event in client.fine_tuning.jobs.list_events(again)]
    assert any("tokenised by an earlier run" in message for message in messages)


def test_a_job_whose_validation_gets_worse_stops_early_with_its_best_weights(stack: Stack, worker: Worker) -> None:
    job_id = stack.submit_contradiction(epochs=20, patience=2)
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
    with stack.openai() as client:
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)]
    assert any(f"The result holds the weights of step {best}" in message for message in messages)
    samples = stack.get(f"/v1/fine_tuning/jobs/{job_id}/samples")["data"]
    assert [answer["step"] for answer in samples[0]["answers"]] == [0, *losses]


def test_a_job_too_big_for_every_worker_waits_and_says_why(stack: Stack) -> None:
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
