"""Programs written for another service name its models; the operator says which of ours they mean."""

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from tests.control_plane import ControlPlane
from tests.service.inference.conftest import StandInGateway, gateway, inference
from tests.service.inference.conftest import ask as ask_model
from tests.service.limits.application import ask
from tests.service.nightly.nights import Nights
from tunesmith.service.app import create_app
from tunesmith.service.settings import Settings

__all__ = ["gateway", "inference"]
JOBS, PLANS = "/v1/fine_tuning/jobs", "/v1/fine_tuning/plans"


def named(plane: ControlPlane, names: str) -> Settings:
    return Settings(**{**plane.settings.model_dump(), "model_names": names})


def test_a_name_of_another_service_is_the_model_that_the_operator_says(control_plane: ControlPlane) -> None:
    app = create_app(named(control_plane, "gpt-4o-mini=tiny-llama, gpt-4o=none-such"))
    data = control_plane.upload()

    def asking(path: str, model: str) -> tuple[str, str, dict[str, object]]:
        return "POST", path, {"json": {"model": model, "training_file": data}}

    asked = asking(JOBS, "gpt-4o-mini"), asking(PLANS, "gpt-4o-mini"), asking(JOBS, "gpt-4o"), asking(JOBS, "gpt-5")
    job, plan, absent, other = asyncio.run(ask(app, *asked, key=control_plane.keys["member"]))
    assert (job.status_code, job.json().get("model")) == (200, "tiny-llama")
    assert "gpt-4o-mini stands for tiny-llama" in control_plane.messages(job.json()["id"])
    assert plan.status_code == 200
    assert [answer.json()["error"]["code"] for answer in (absent, other)] == ["model_not_found"] * 2
    assert "none-such" in absent.json()["error"]["message"]


@pytest.mark.parametrize("names", ["gpt-4o-mini", "gpt-4o-mini=", "=tiny-llama", "a=b=c"])
def test_a_list_of_names_that_cannot_be_read_is_refused_at_the_start(plane: ControlPlane, names: str) -> None:
    with pytest.raises(ValidationError, match="write NAME=MODEL"):
        named(plane, names)


@pytest.fixture
def others_names(control_plane: ControlPlane) -> Iterator[Settings]:
    """Two names of another service that mean a model here, and one that means nothing."""
    state = control_plane.app.state
    usual = state.settings
    state.settings = named(control_plane, "gpt-4o-mini=tiny-llama, gpt-4=tiny-llama, gpt-4o=none-such")
    yield state.settings
    state.settings = usual


@pytest.mark.usefixtures("others_names")
def test_the_names_are_listed_beside_the_models_and_tell_what_they_stand_for(control_plane: ControlPlane) -> None:
    every = control_plane.request("GET", "/v1/models").json()["data"]
    listed = {model["id"]: model["tunesmith"]["stands_for"] for model in every}
    assert listed == {"tiny-llama": None, "gpt-4o-mini": "tiny-llama", "gpt-4": "tiny-llama"}
    one = control_plane.request("GET", "/v1/models/gpt-4o-mini").json()
    assert (one["id"], one["tunesmith"]["stands_for"]) == ("gpt-4o-mini", "tiny-llama")
    assert control_plane.request("GET", "/v1/models/gpt-4o").status_code == 404


@pytest.mark.usefixtures("others_names")
def test_an_evaluation_means_the_same_by_the_name(control_plane: ControlPlane) -> None:
    body = {"model": "gpt-4o-mini", "against": "gpt-4", "file": control_plane.upload()}
    made = control_plane.request("POST", "/v1/evaluations", json=body).json()
    assert (made["model"], made["against"]) == ("tiny-llama", "tiny-llama")


@pytest.mark.usefixtures("inference", "others_names")
def test_a_chat_is_answered_under_the_name_that_was_asked(control_plane: ControlPlane, gateway: StandInGateway) -> None:
    told = ask_model(control_plane, "gpt-4o-mini")
    assert (told.status_code, told.json()["model"]) == (200, "gpt-4o-mini")
    assert gateway.asked[-1]["model"]["name"] == "tiny-llama"


def test_a_schedule_keeps_the_name_and_starts_from_what_it_means_when_it_is_due(
    control_plane: ControlPlane, others_names: Settings
) -> None:
    nights = Nights(control_plane)
    nights.settings = others_names
    assert nights.create(job={"model": "gpt-4o-mini"})["settings"]["job"]["model"] == "gpt-4o-mini"
    refused = nights.post("/v1/schedules", nights.body(name="other", job={"model": "gpt-4o"}))
    assert refused.json()["error"]["param"] == "job.model"
    nights.upload()
    assert control_plane.job(nights.next_night()["job_id"])["model"] == "tiny-llama"
