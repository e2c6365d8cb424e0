"""An unmodified `openai` client drives the whole surface."""

from collections.abc import Iterator
from typing import NamedTuple

import openai
import pytest
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob

from tests.control_plane import TINY_CONFIG, ControlPlane, chat_rows
from tunesmith.tuning.models.hub import HubCommit
from tunesmith.tuning.state import Outcome


class Lived(NamedTuple):
    """One job as the `openai` client saw it: just made, claimed, and at its end."""

    training: FileObject
    made: FineTuningJob
    claimed: FineTuningJob
    ended: FineTuningJob


@pytest.fixture
def client(control_plane: ControlPlane) -> Iterator[openai.OpenAI]:
    with control_plane.openai() as made:
        yield made


@pytest.fixture
def lived(control_plane: ControlPlane, client: openai.OpenAI) -> Lived:
    """From upload to result."""
    training = client.files.create(file=("train.jsonl", chat_rows(40)), purpose="fine-tune")
    worker = control_plane.worker()
    made = submitted(client, training)
    attempt = worker.claim()
    assert attempt is not None
    claimed = client.fine_tuning.jobs.retrieve(made.id)
    attempt.heartbeat(step=10)
    attempt.metrics([{"step": 10, "train_loss": 1.25, "train_mean_token_accuracy": 0.5, "valid_loss": 1.5}])
    attempt.checkpoint(10)
    attempt.succeed()
    return Lived(training, made, claimed, client.fine_tuning.jobs.retrieve(made.id))


def submitted(client: openai.OpenAI, training: FileObject) -> FineTuningJob:
    validation = client.files.create(file=("valid.jsonl", chat_rows(5)), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="tiny-llama",
        training_file=training.id,
        validation_file=validation.id,
        suffix="Support Bot",
        seed=7,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        metadata={"team": "search"},
        extra_body={"tunesmith": {"method": "lora", "goal": "speed", "lora": {"rank": 4}}},
    )


def test_an_uploaded_file_is_processed_at_once(client: openai.OpenAI) -> None:
    training = client.files.create(file=("train.jsonl", chat_rows(40)), purpose="fine-tune")
    assert client.files.wait_for_processing(training.id).status == "processed"


def test_a_submitted_job_waits_with_its_place_in_the_queue(lived: Lived) -> None:
    job = lived.made
    assert (job.status, job.seed, job.object) == ("queued", 7, "fine_tuning.job")
    assert job.organization_id == "acme"
    assert job.hyperparameters.batch_size == "auto"
    assert job.tunesmith["queue_position"] == 1
    assert job.tunesmith["waiting_reason"]  # of workers as they were up to a second ago


def test_a_claimed_job_runs_and_shows_its_plan(lived: Lived) -> None:
    job = lived.claimed
    assert job.status == "running"
    assert job.tunesmith["method"] == "lora"
    assert job.tunesmith["plan"]["lora"]["rank"] == 4
    assert job.method.supervised.hyperparameters.n_epochs == 2
    assert isinstance(job.hyperparameters.batch_size, int)


def test_a_job_that_made_steps_has_an_estimated_end(control_plane: ControlPlane, client: openai.OpenAI) -> None:
    attempt = control_plane.claimed()
    assert attempt.heartbeat(step=10).json() == {"cancel": False, "pause": False}
    assert client.fine_tuning.jobs.retrieve(attempt.job_id).estimated_finish


def test_a_succeeded_job_has_a_model_of_its_name(client: openai.OpenAI, lived: Lived) -> None:
    job = lived.ended
    assert job.status == "succeeded"
    assert job.finished_at
    assert job.trained_tokens == 1234
    assert job.fine_tuned_model
    assert job.fine_tuned_model.startswith("ft:tiny-llama:acme:support-bot:")
    assert client.models.retrieve(job.fine_tuned_model).owned_by == "acme"
    assert {"tiny-llama", job.fine_tuned_model} <= {model.id for model in client.models.list()}


def test_a_succeeded_job_has_its_curve_as_a_file(client: openai.OpenAI, lived: Lived) -> None:
    (file,) = lived.ended.result_files
    header = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert client.files.content(file).text == f"{header}\n10,1.25,0.5,1.5,\n"
    assert client.files.retrieve(file).purpose == "fine-tune-results"


def test_a_succeeded_job_has_its_checkpoints(client: openai.OpenAI, lived: Lived) -> None:
    (point,) = client.fine_tuning.jobs.checkpoints.list(lived.ended.id).data
    assert point.step_number == 10
    assert point.fine_tuned_model_checkpoint == f"{lived.ended.fine_tuned_model}:ckpt-step-10"
    assert point.metrics.valid_loss == 1.5


def test_a_job_tells_its_story(control_plane: ControlPlane, lived: Lived) -> None:
    messages = control_plane.messages(lived.ended.id)
    assert messages[:3] == [
        f"Created fine-tuning job: {lived.ended.id}",
        f"Validating training file: {lived.training.id}",
        "Files validated, moving job to queued state",
    ]
    assert "are also in the training file" in messages[3]
    assert messages[4] == "Fine-tuning job started"
    assert messages[-4:] == [
        "Step 10/96: training loss=1.2500, validation loss=1.5000",
        "Checkpoint created at step 10",
        f"New fine-tuned model created: {lived.ended.fine_tuned_model}",
        "The job has successfully completed",
    ]


def test_events_have_no_gaps_and_page_newest_first(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    for number in range(30):
        attempt.post("events", {"message": f"line {number}"})
    with control_plane.openai() as client:
        events = list(client.fine_tuning.jobs.list_events(attempt.job_id, limit=7))
    numbers = [int(event.id.rsplit("-")[-1]) for event in events]
    assert numbers == list(range(len(events), 0, -1))
    assert events[0].message == "line 29"


def test_jobs_and_files_page_newest_first(control_plane: ControlPlane) -> None:
    made = [control_plane.create_job()["id"] for _ in range(5)]
    with control_plane.openai() as client:
        assert [job.id for job in client.fine_tuning.jobs.list(limit=2)] == made[::-1]
        assert len(list(client.files.list(limit=2))) == 5


def test_jobs_are_found_by_their_metadata(control_plane: ControlPlane) -> None:
    tagged = control_plane.create_job(metadata={"team": "a", "night": "1"})["id"]
    control_plane.create_job(metadata={"team": "b"})
    bare = control_plane.create_job()["id"]
    with control_plane.openai() as client:
        assert [job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a", "night": "1"})] == [tagged]
    found = control_plane.request("GET", "/v1/fine_tuning/jobs?metadata=null").json()["data"]
    assert [job["id"] for job in found] == [bare]


def test_cancel_pause_and_resume_of_a_waiting_job(control_plane: ControlPlane) -> None:
    job_id = control_plane.create_job()["id"]
    with control_plane.openai() as client:
        assert client.fine_tuning.jobs.pause(job_id).status == "paused"
        assert control_plane.worker().claim() is None
        assert client.fine_tuning.jobs.resume(job_id).status == "queued"
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="cannot be resumed") as caught:
            client.fine_tuning.jobs.resume(job_id)
        assert caught.value.code == "invalid_state"


def test_cancel_of_a_succeeded_job_is_a_clear_400(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.succeed()
    with (
        control_plane.openai() as client,
        pytest.raises(openai.BadRequestError, match="cannot be cancelled"),
    ):
        client.fine_tuning.jobs.cancel(attempt.job_id)


def test_a_cancelled_run_is_running_with_a_mark_until_its_worker_stops(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    with control_plane.openai() as client:
        job = client.fine_tuning.jobs.cancel(attempt.job_id)
        assert job.status == "running"
        assert job.tunesmith["cancel_requested"]
        assert attempt.heartbeat().json()["cancel"]
        assert attempt.finish(Outcome.CANCELLED).status_code == 204
        assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"


def test_errors_carry_code_param_and_request_id(control_plane: ControlPlane) -> None:
    with control_plane.openai() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.create(model="tiny-lama", training_file="file-x")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert "tiny-llama" in caught.value.message
        assert caught.value.request_id
        with pytest.raises(openai.NotFoundError) as missing:
            client.fine_tuning.jobs.retrieve("ftjob-x")
        assert missing.value.code == "fine_tuning_job_not_found"
    with openai.OpenAI(base_url=f"{control_plane.url}/v1", api_key="ts-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert refused.value.code == "invalid_api_key"


def test_a_job_is_told_from_which_commit_of_the_hub_its_base_is(plane: ControlPlane) -> None:
    plane.add_model()
    hub = {"id": "owner/tiny", "commit": "0123456789" * 4}
    known = plane.request("GET", "/v1/models/tiny-llama").json()["tunesmith"]
    assert known["hub"] is None
    body = {"name": "tiny-llama", "files": known["files"], "config": TINY_CONFIG}
    for sent in (body | {"hub": hub}, body):  # what is not said again is not forgotten
        assert plane.request("POST", "/v1/models", key="admin", json=sent).json()["tunesmith"]["hub"] == hub
    first = plane.claimed()
    assert first.claim.base_model.hub == HubCommit.model_validate(hub)
    first.succeed()
    second = plane.claimed(model=plane.job(first.job_id)["fine_tuned_model"])
    assert second.claim.base_model.hub == HubCommit.model_validate(hub)
    moving = body | {"hub": hub | {"commit": "main"}}
    refused = plane.request("POST", "/v1/models", key="admin", json=moving)
    assert refused.json()["error"]["param"] == "hub.commit"


def test_a_fine_tuned_model_can_be_trained_further_and_deleted(control_plane: ControlPlane) -> None:
    first = control_plane.claimed()
    first.succeed()
    name = control_plane.job(first.job_id)["fine_tuned_model"]
    second = control_plane.claimed(model=name)
    assert second.claim.base_model.adapter_of == "tiny-llama"
    assert second.claim.base_model.base_files
    with control_plane.openai() as client:
        with pytest.raises(openai.BadRequestError, match="1 unfinished job needs"):
            client.models.delete(name)
        second.succeed()
        final = control_plane.job(second.job_id)["fine_tuned_model"]
        assert final.startswith("ft:tiny-llama:acme::")
        assert client.models.delete(final).deleted
