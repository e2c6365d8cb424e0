"""Programs written for another service name its models; the operator says which of ours they mean."""

import asyncio

import pytest
from pydantic import ValidationError

from tests.control_plane import ControlPlane
from tests.service.limits.application import ask
from tunesmith.service.app import create_app
from tunesmith.service.settings import Settings

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
