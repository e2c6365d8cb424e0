"""OpenAI's `integrations` are kept with the job, shown, and handed to whoever trains it."""

import os
from pathlib import Path

from tests.command import in_process
from tests.control_plane import ControlPlane
from tunesmith.tuning.messages import EventReport

WANDB = {"type": "wandb", "wandb": {"project": "support", "tags": ["nightly"]}}


def test_an_integration_is_shown_as_it_was_asked_for_and_reaches_the_worker(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed(integrations=[WANDB])
    (handed,) = attempt.claim.spec.integrations
    assert (handed.wandb.project, handed.wandb.tags) == ("support", ("nightly",))
    with control_plane.openai() as client:
        (shown,) = client.fine_tuning.jobs.retrieve(attempt.job_id).integrations or ()
    assert (shown.type, shown.wandb.project, shown.wandb.tags) == ("wandb", "support", ["nightly"])


def test_where_a_tracker_shows_the_run_is_told_with_the_job(control_plane: ControlPlane, tmp_path: Path) -> None:
    attempt = control_plane.claimed(integrations=[WANDB])
    data = {"tracker": "wandb", "url": "https://wandb.example.com/acme/runs/1"}
    for _ in range(2):  # of two attempts of one job
        report = EventReport(message="W&B shows this run", data=data)
        assert attempt.post("events", report).status_code in (200, 204)
    assert attempt.post("events", EventReport(message="W&B is told no more", data={"tracker": "wandb"})).is_success
    told = control_plane.request("GET", f"/v1/fine_tuning/jobs/{attempt.job_id}/trackers").json()["data"]
    assert told == [{"object": "tunesmith.tracked_run", **data}], "each address once, and only what can be opened"
    service = {"TUNESMITH_URL": control_plane.url, "TUNESMITH_API_KEY": control_plane.keys["member"]}
    run = in_process({"PATH": os.environ["PATH"], "TUNESMITH_DATA_DIR": str(tmp_path), "COLUMNS": "200", **service})
    shown = run("get", attempt.job_id)
    assert shown.stdout.count("tracked     https://wandb.example.com/acme/runs/1") == 1, shown


def test_six_integrations_are_one_too_many(control_plane: ControlPlane) -> None:
    body = {"model": "tiny-llama", "training_file": control_plane.upload(), "integrations": [WANDB] * 6}
    refused = control_plane.request("POST", "/v1/fine_tuning/jobs", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "integrations"
