"""Aliases: one name for whichever model is the right one, changed by one person at a time and never without a trace."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.command import Run, in_process
from tests.control_plane import ControlPlane, WorkerSide

PROD = "ft:support@prod"
PATH = f"/v1/aliases/{PROD}"


@pytest.fixture
def tuned(control_plane: ControlPlane) -> Callable[..., str]:
    """Trains a model and returns its name."""
    workers: list[WorkerSide] = []

    def train(**fields: Any) -> str:
        workers or workers.append(control_plane.worker())
        job_id = control_plane.create_job(**fields)["id"]
        attempt = workers[0].claim()
        assert attempt is not None
        attempt.succeed()
        return str(control_plane.job(job_id)["fine_tuned_model"])

    return train


@pytest.fixture
def run(control_plane: ControlPlane) -> Run:
    """The command, connected to this service."""
    return in_process({"TUNESMITH_URL": control_plane.url, "TUNESMITH_API_KEY": control_plane.keys["member"]})


def put(plane: ControlPlane, model: str, *, name: str = PROD, **fields: Any) -> httpx2.Response:
    return plane.request("PUT", f"/v1/aliases/{name}", json={"model": model, **fields})


def roll_back(plane: ControlPlane, **fields: Any) -> httpx2.Response:
    return plane.request("POST", f"{PATH}/roll_back", json=fields)


def error_of(response: httpx2.Response, *, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = dict(response.json()["error"])
    assert error["hint"] or status == 404, "says what to do next"
    return error


def test_an_alias_stands_for_a_model_and_remembers_who_changed_it_and_why(
    control_plane: ControlPlane, tuned: Callable[..., str]
) -> None:
    first, second = tuned(), tuned()
    assert put(control_plane, first, reason="the first").json()["model"] == first
    assert put(control_plane, second, reason="better by 4 points").json()["model"] == second
    assert put(control_plane, second).json()["changes"] == 2, "what it already stands for is no change"
    (listed,) = control_plane.request("GET", "/v1/aliases").json()["data"]
    assert (listed["id"], listed["model"], listed["changes"]) == (PROD, second, 2)
    changes = control_plane.request("GET", f"{PATH}/history").json()["data"]
    told = [(one["number"], one["model"], one["previous_model"], one["reason"], one["by"]) for one in changes]
    assert told == [(2, second, first, "better by 4 points", "member"), (1, first, None, "the first", "member")]


def test_a_job_that_names_an_alias_starts_from_what_it_stands_for_at_that_moment(
    control_plane: ControlPlane, tuned: Callable[..., str]
) -> None:
    first, second = tuned(), tuned()
    put(control_plane, first)
    job = control_plane.create_job(model=PROD)
    put(control_plane, second)
    assert job["model"] == first
    assert control_plane.job(job["id"])["model"] == first, "a promotion changes no job that exists"
    assert f"{PROD} stands for {first}" in control_plane.messages(job["id"])
    assert control_plane.create_job(model=PROD)["model"] == second


def test_a_plan_and_a_model_can_be_asked_for_by_alias(control_plane: ControlPlane, tuned: Callable[..., str]) -> None:
    model = tuned()
    put(control_plane, model)
    assert control_plane.request("GET", f"/v1/models/{PROD}").json()["id"] == model
    body = {"model": PROD, "training_file": control_plane.upload()}
    assert control_plane.request("POST", "/v1/fine_tuning/plans", json=body).status_code == 200
    error = error_of(control_plane.request("GET", "/v1/models/ft:support@dev"), status=404)
    assert error["code"] == "alias_not_found"


def test_one_of_two_promotions_against_the_same_champion_is_told_what_is_there_now(
    control_plane: ControlPlane, tuned: Callable[..., str]
) -> None:
    champion, first, second = tuned(), tuned(), tuned()
    assert put(control_plane, champion, expected=None).status_code == 200
    assert put(control_plane, first, expected=champion).status_code == 200
    late = put(control_plane, second, expected=champion)
    assert first in error_of(late, status=409)["message"]
    assert late.headers["x-should-retry"] == "false"
    assert error_of(put(control_plane, second, expected=None), status=409)["code"] == "alias_changed"


def test_rolling_back_goes_one_further_back_each_time_and_past_models_that_are_gone(
    control_plane: ControlPlane, tuned: Callable[..., str]
) -> None:
    models = [tuned() for _ in range(4)]
    for model in models:
        put(control_plane, model)
    assert control_plane.request("DELETE", f"/v1/models/{models[1]}").status_code == 200
    assert roll_back(control_plane, reason="wrong language", expected=models[3]).json()["model"] == models[2]
    assert roll_back(control_plane).json()["model"] == models[0]
    assert error_of(roll_back(control_plane))["code"] == "no_earlier_model"
    put(control_plane, models[3])
    assert roll_back(control_plane).json()["model"] == models[0], "what was rolled back from is not gone back to"
    changes = control_plane.request("GET", f"{PATH}/history").json()["data"]
    assert [one["action"] for one in changes].count("roll_back") == 3


def test_a_model_that_an_alias_stands_for_cannot_be_deleted(
    control_plane: ControlPlane, tuned: Callable[..., str]
) -> None:
    model = tuned()
    put(control_plane, model)
    error = error_of(control_plane.request("DELETE", f"/v1/models/{model}"))
    assert (error["code"], PROD in error["message"]) == ("model_in_use", True)
    assert control_plane.request("DELETE", PATH).json() == {"id": PROD, "object": "alias", "deleted": True}
    assert control_plane.request("DELETE", f"/v1/models/{model}").status_code == 200
    assert error_of(control_plane.request("GET", PATH), status=404)["code"] == "alias_not_found"
    assert [one["action"] for one in control_plane.request("GET", f"{PATH}/history").json()["data"]] == [
        "delete",
        "set",
    ]


def test_an_alias_of_an_alias_and_of_itself_is_refused_with_the_model_to_name(
    control_plane: ControlPlane, tuned: Callable[..., str]
) -> None:
    model = tuned()
    put(control_plane, model)
    for name in (PROD, "ft:support@staging"):
        error = error_of(put(control_plane, PROD, name=name))
        assert (error["code"], model in error["hint"]) == ("alias_of_alias", True)
    assert error_of(put(control_plane, "ft:loop@prod", name="ft:loop@prod"))["code"] == "alias_of_alias"


@pytest.mark.parametrize("name", ["support", "ft:support", "ft:@prod", "ft:Support@prod", "ft:a@b@c", "ft:a b@c"])
def test_a_name_that_no_alias_may_have_is_refused(control_plane: ControlPlane, name: str) -> None:
    assert error_of(put(control_plane, "tiny-llama", name=name))["code"] == "invalid_alias"


def test_what_an_alias_cannot_stand_for_is_refused(control_plane: ControlPlane) -> None:
    assert error_of(put(control_plane, "no-such-model"))["code"] == "model_not_found"
    assert error_of(put(control_plane, "tiny-llama", reasons="x"))["code"] == "unknown_parameter"
    control_plane.request("POST", "/v1/models", key="admin", json={"name": "shape", "config": {"model_type": "llama"}})
    body = {"model": "ft:suport@prod", "training_file": control_plane.upload()}
    put(control_plane, "tiny-llama")
    error = error_of(control_plane.request("POST", "/v1/fine_tuning/jobs", json=body))
    assert (error["param"], error["hint"]) == ("model", f"Did you mean {PROD}?")


def test_an_alias_of_another_project_does_not_exist(control_plane: ControlPlane) -> None:
    put(control_plane, "tiny-llama")
    assert control_plane.request("GET", PATH, key="stranger").status_code == 404
    assert control_plane.request("GET", f"{PATH}/history", key="stranger").status_code == 404
    stranger = control_plane.request("PUT", PATH, key="stranger", json={"model": "tiny-llama", "expected": None})
    assert stranger.status_code == 200, "each project has names of its own"


def test_the_command_sets_rolls_back_and_pulls_by_alias(
    control_plane: ControlPlane, tuned: Callable[..., str], run: Run, tmp_path: Path
) -> None:
    first, second = tuned(), tuned()
    assert run("aliases", "set", PROD, first, "--expected", "none").stdout.strip() == first
    assert run("aliases", "set", PROD, second, "--reason", "better", "--expected", first).returncode == 0
    refused = run("aliases", "set", PROD, first, "--expected", first)
    assert (refused.returncode, second in refused.stderr) == (7, True)
    pulled = run("artifacts", "pull", PROD, "--to", tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    job_id = control_plane.request("GET", f"/v1/models/{second}").json()["tunesmith"]["job_id"]
    (artifact,) = control_plane.request("GET", f"/v1/fine_tuning/jobs/{job_id}/artifacts").json()["data"]
    attempt = artifact["attempt_id"]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_text() == f"weights of {attempt}"
    assert run("aliases", "rollback", PROD, "--reason", "worse").stdout.strip() == first
    told = run("aliases", "history", PROD).stdout
    assert ("roll_back" in told, "worse" in told, "better" in told) == (True, True, True)
    assert PROD in run("aliases", "ls").stdout
    assert run("aliases", "rm", PROD).returncode == 0
    assert run("artifacts", "pull", PROD, "--to", tmp_path).returncode == 10
