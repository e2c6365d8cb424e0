"""OpenAI's `integrations` are kept with the job, shown, and handed to whoever trains it."""

from tests.control_plane import ControlPlane

WANDB = {"type": "wandb", "wandb": {"project": "support", "tags": ["nightly"]}}


def test_an_integration_is_shown_as_it_was_asked_for_and_reaches_the_worker(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed(integrations=[WANDB])
    (handed,) = attempt.claim.spec.integrations
    assert (handed.wandb.project, handed.wandb.tags) == ("support", ("nightly",))
    with control_plane.openai() as client:
        (shown,) = client.fine_tuning.jobs.retrieve(attempt.job_id).integrations or ()
    assert (shown.type, shown.wandb.project, shown.wandb.tags) == ("wandb", "support", ["nightly"])


def test_six_integrations_are_one_too_many(control_plane: ControlPlane) -> None:
    body = {"model": "tiny-llama", "training_file": control_plane.upload(), "integrations": [WANDB] * 6}
    refused = control_plane.request("POST", "/v1/fine_tuning/jobs", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "integrations"
