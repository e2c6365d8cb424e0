"""An administrator permits other projects to ask one checkpoint: that one answers them, and nothing else does."""

import httpx2
import openai
import pytest

from tests.control_plane import AttemptSide, ControlPlane, sha256
from tests.service.inference.conftest import StandInGateway, ask
from tests.service.inference.test_asking_models import ADAPTER_FILES
from tests.service.test_access import is_error
from tunesmith.service.keeper.unneeded_bytes import delete_unneeded_bytes


def checkpoint(training: AttemptSide, step: int) -> str:
    """A checkpoint with an adapter of its own; the name that it is listed with."""
    files = [training.put(f"{name} of {step}".encode(), name=name) for name in (*ADAPTER_FILES, "manifest.json")]
    body = {"step": step, "manifest_sha256": files[-1].sha256, "files": [file.model_dump() for file in files]}
    assert training.post("checkpoints", body).status_code == 204
    path = f"/v1/fine_tuning/jobs/{training.job_id}/checkpoints?limit=1"
    return str(training.plane.request("GET", path).json()["data"][0]["fine_tuned_model_checkpoint"])


def permissions(plane: ControlPlane, name: str, method: str = "GET", *, key: str = "admin", **options: object):
    return plane.request(method, f"/v1/fine_tuning/checkpoints/{name}/permissions", key=key, **options)


def share(plane: ControlPlane, name: str, *projects: str, key: str = "admin") -> httpx2.Response:
    return permissions(plane, name, "POST", key=key, json={"project_ids": list(projects)})


def evaluate(plane: ControlPlane, name: str, **fields: object) -> httpx2.Response:
    body = {"model": name, "file": plane.upload(key="stranger"), **fields}
    return plane.request("POST", "/v1/evaluations", key="stranger", json=body)


@pytest.fixture
def shared(control_plane: ControlPlane) -> tuple[AttemptSide, str]:
    """A running job, and its checkpoint that the project `other` may ask."""
    training = control_plane.claimed()
    name = checkpoint(training, 3)
    assert share(control_plane, name, "other").status_code == 200
    return training, name


@pytest.mark.usefixtures("inference")
def test_a_permitted_project_asks_the_checkpoint_and_nothing_else(
    control_plane: ControlPlane, gateway: StandInGateway, shared: tuple[AttemptSide, str]
) -> None:
    plane, (training, name) = control_plane, shared
    another = checkpoint(training, 5)
    assert ask(plane, name, key="stranger").status_code == 200
    assert sha256(b"adapter_model.safetensors of 3") in str(gateway.asked[-1]["model"]["adapter"])
    assert is_error(ask(plane, another, key="stranger"), 404, "model_not_found")
    training.succeed()
    result = str(plane.job(training.job_id)["fine_tuned_model"])
    assert is_error(ask(plane, result, key="stranger"), 404, "model_not_found")
    for path in (f"jobs/{training.job_id}", f"jobs/{training.job_id}/checkpoints"):
        assert is_error(plane.request("GET", f"/v1/fine_tuning/{path}", key="stranger"), 404)
    body = {"model": name, "training_file": plane.upload(key="stranger")}
    refused = plane.request("POST", "/v1/fine_tuning/jobs", key="stranger", json=body)
    assert is_error(refused, 400, "model_not_found")


def test_a_permitted_project_evaluates_the_checkpoint_and_its_worker_may_read_it(
    control_plane: ControlPlane, shared: tuple[AttemptSide, str]
) -> None:
    training, name = shared
    training.succeed()
    assert evaluate(control_plane, name, against="base").status_code == 200
    attempt = control_plane.worker().claim()
    assert attempt is not None
    assert {attempt.get(file.sha256).status_code for file in attempt.claim.base_model.files} == {200}


def test_a_checkpoint_on_a_model_of_the_owner_is_asked_without_seeing_that_model(control_plane: ControlPlane) -> None:
    first = control_plane.claimed()
    first.succeed()
    tuned = str(control_plane.job(first.job_id)["fine_tuned_model"])
    name = checkpoint(control_plane.claimed("worker-2", model=tuned), 4)
    assert share(control_plane, name, "other").status_code == 200
    assert evaluate(control_plane, name).status_code == 200
    assert is_error(evaluate(control_plane, name, against="base"), 404, "model_not_found")
    assert is_error(evaluate(control_plane, tuned), 404, "model_not_found")


@pytest.mark.usefixtures("inference", "gateway")
def test_a_permission_taken_back_opens_nothing_more_and_is_on_record(
    control_plane: ControlPlane, shared: tuple[AttemptSide, str]
) -> None:
    plane, (training, name) = control_plane, shared
    waiting = evaluate(plane, name).json()["id"]
    (permission,) = permissions(plane, name).json()["data"]
    path = f"/v1/fine_tuning/checkpoints/{name}/permissions/{permission['id']}"
    assert is_error(plane.request("DELETE", path), 403)
    deleted = plane.request("DELETE", path, key="admin").json()
    assert deleted == {"id": permission["id"], "object": "checkpoint.permission", "deleted": True}
    assert is_error(plane.request("DELETE", path, key="admin"), 404, "permission_not_found")
    assert is_error(ask(plane, name, key="stranger"), 404, "model_not_found")
    assert ask(plane, name).status_code == 200
    training.succeed()
    assert plane.worker().claim() is None, "an evaluation that waited has lost its model"
    ended = plane.request("GET", f"/v1/evaluations/{waiting}", key="stranger").json()
    assert (ended["status"], ended["error"]["code"]) == ("failed", "model_not_found")
    audited = plane.request("GET", "/v1/audit", key="admin").json()["data"]
    assert [one["action"] for one in audited[:2]] == ["checkpoint.unshared", "checkpoint.shared"]


def test_giving_a_permission_twice_gives_it_once(control_plane: ControlPlane, shared: tuple[AttemptSide, str]) -> None:
    plane, (_, name) = control_plane, shared
    assert plane.request("POST", "/v1/projects/research", key="admin", json={}).status_code == 200
    again = share(plane, name, "research", "other", "research").json()["data"]
    assert [one["project_id"] for one in again] == ["research", "other"]
    listed = permissions(plane, name).json()
    assert {one["id"] for one in listed["data"]} == {one["id"] for one in again}


def test_permissions_come_in_pages_of_the_clients_own_and_by_project(
    control_plane: ControlPlane, shared: tuple[AttemptSide, str]
) -> None:
    plane, (_, name) = control_plane, shared
    for project in ("research", "sales"):
        plane.request("POST", f"/v1/projects/{project}", key="admin", json={})
        assert share(plane, name, project).status_code == 200
    with plane.openai("admin") as client:
        of_checkpoint = client.fine_tuning.checkpoints.permissions
        newest_first = [one.project_id for one in of_checkpoint.list(name, limit=1)]
        assert newest_first == ["sales", "research", "other"]
        oldest_first = of_checkpoint.list(name, limit=2, order="ascending")
        assert [one.project_id for one in oldest_first] == newest_first[::-1]
        assert [one.project_id for one in of_checkpoint.list(name, project_id="sales")] == ["sales"]
        with pytest.raises(openai.NotFoundError, match="no permission 'cp-none'"):
            of_checkpoint.list(name, after="cp-none")


@pytest.mark.parametrize(
    ("projects", "code", "param"),
    [
        (["othre"], "project_not_found", "project_ids.0"),
        (["other", "acme"], "invalid_request", "project_ids.1"),
        ([], "invalid_value", "project_ids"),
        ([7], "invalid_value", "project_ids.0"),
    ],
)
def test_a_permission_for_nobody_is_refused_by_its_field(
    control_plane: ControlPlane, projects: list[str], code: str, param: str
) -> None:
    name = checkpoint(control_plane.claimed(), 3)
    refused = share(control_plane, name, *projects)
    assert is_error(refused, 400, code)
    assert refused.json()["error"]["param"] == param
    assert permissions(control_plane, name).json()["data"] == []


def test_only_admins_share_and_only_checkpoints_that_there_are(
    control_plane: ControlPlane, shared: tuple[AttemptSide, str]
) -> None:
    _, name = shared
    assert is_error(share(control_plane, name, "other", key="member"), 403)
    assert is_error(permissions(control_plane, name, key="member"), 403)
    for unknown in (name.replace("step-3", "step-4"), name.replace("acme", "other"), "tiny-llama", "a/b"):
        assert is_error(share(control_plane, unknown, "other"), 404, "model_not_found")


def test_a_shared_checkpoint_keeps_its_files_and_one_without_cannot_be_shared(
    control_plane: ControlPlane, shared: tuple[AttemptSide, str]
) -> None:
    plane, (training, name) = control_plane, shared
    unshared = checkpoint(training, 5)
    training.succeed()
    plane.sql("SET session_replication_role = replica; UPDATE jobs SET finished_at = now() - interval '25 hours'")
    plane.keep(delete_unneeded_bytes)
    assert evaluate(plane, name).status_code == 200
    assert is_error(share(plane, unshared, "other"), 400, "model_has_no_weights")
