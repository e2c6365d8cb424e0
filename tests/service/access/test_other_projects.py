"""Every documented route is asked for what another project has, and answers as for what never was."""

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.control_plane import ControlPlane
from tunesmith.tuning.values.json_objects import Json

# A name of an alias is the project's own, so that asking for another's is asking for one's own; bytes that are sent are
# kept once for all, and tell nobody that they were there. Keys are administrators' everywhere.
OWN_TO_EACH_PROJECT = ("/v1/aliases/", "PUT /v1/blobs/")
EVENTS = ["fine_tuning.job.succeeded"]
FOR_ADMINISTRATORS = ("/v1/keys", "/v1/projects", "/v1/workers", "/v1/fine_tuning/checkpoints")


@pytest.fixture
def theirs(control_plane: ControlPlane) -> dict[str, str]:
    """One of everything that a project can have, by the name of its parameter in a path."""
    attempt = control_plane.claimed()
    attempt.checkpoint(10, **{"adapter_model.safetensors": b"weights"})
    attempt.succeed()
    job = control_plane.job(attempt.job_id)
    path = f"/v1/fine_tuning/jobs/{job['id']}"
    checkpoint = control_plane.request("GET", f"{path}/checkpoints").json()["data"][0]
    model = control_plane.request("GET", f"/v1/models/{job['fine_tuned_model']}").json()
    schedule = made(control_plane, "/v1/schedules", nightly(job["training_file"]))
    endpoint = made(
        control_plane, "/v1/webhook_endpoints", {"name": "ci", "url": "https://93.184.216.34/", "event_types": EVENTS}
    )
    evaluation = {"model": "tiny-llama", "file": job["training_file"]}
    permissions = f"/v1/fine_tuning/checkpoints/{checkpoint['fine_tuned_model_checkpoint']}/permissions"
    return {
        "job_id": job["id"],
        "file_id": job["training_file"],
        "upload_id": made(control_plane, "/v1/uploads", upload())["id"],
        "artifact_id": control_plane.request("GET", f"{path}/artifacts").json()["data"][0]["id"],
        "checkpoint_id": checkpoint["id"],
        "fine_tuned_model_checkpoint": checkpoint["fine_tuned_model_checkpoint"],
        "permission_id": made(control_plane, permissions, {"project_ids": ["other"]}, key="admin")["data"][0]["id"],
        "model": model["id"],
        "sha256": model["tunesmith"]["files"][0]["sha256"],
        "evaluation_id": made(control_plane, "/v1/evaluations", evaluation)["id"],
        "schedule": schedule["id"],
        "firing": made(control_plane, f"/v1/schedules/{schedule['id']}/run", {})["id"],
        "webhook_endpoint_id": endpoint["id"],
        "delivery_id": delivered(control_plane, endpoint["id"]),
    }


def made(plane: ControlPlane, path: str, body: Json, *, key: str = "member") -> Json:
    response = plane.request("POST", path, key=key, json=body)
    assert response.status_code == 200, (path, response.text)
    return dict(response.json())


def delivered(plane: ControlPlane, endpoint_id: str) -> str:
    """The ending of a job on its way to the endpoint, as a row: nothing is to be sent by a test."""
    plane.sql(
        "INSERT INTO webhook_deliveries (id, endpoint_id, event_id, event, status) "
        "VALUES ('whd-01234567', %s, 'evt_1', '{}', 'failed')",
        endpoint_id,
    )
    return "whd-01234567"


def nightly(file_id: str) -> Json:
    return {"name": "nightly", "cron": "0 3 * * *", "data": {"file": file_id}, "job": {"model": "tiny-llama"}}


def upload() -> Json:
    return {"bytes": 100, "filename": "x.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}


def operations(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """Method and path of every documented operation on something with an id or a name."""
    for path, methods in plane.request("GET", "/openapi.json").json()["paths"].items():
        yield from ((method.upper(), path) for method in methods if "{" in path)


def filled(path: str, having: dict[str, str]) -> str:
    if path.startswith("/v1/models/"):
        having = {**having, "name": having["model"]}
    return path.format(
        **{"name": "adapter_model.safetensors", "worker_id": "w", "invitation_id": "i", "key_id": "k"} | having
    )


def sent(method: str, path: str, *, file_id: str) -> dict[str, Any]:
    """A body and a query that the route takes from whoever owns what it is about."""
    if path.endswith("/parts"):
        return {"files": {"data": b"x"}}
    bodies: dict[str, Json] = {
        "/priority": {"priority": 1},
        "/complete": {"part_ids": ["part-1"]},
        "/firings/{firing}/verdict": {"verdict": "better"},
        "/permissions": {"project_ids": ["acme"]},
        "/test": {"event_type": "fine_tuning.job.succeeded"},
        "/v1/schedules/{schedule}": {name: it for name, it in nightly(file_id).items() if name != "name"},
        "/v1/webhook_endpoints/{webhook_endpoint_id}": {"name": "mine"},
    }
    body = next((it for ending, it in bodies.items() if path.endswith(ending)), {})
    return {"json": body} if method in ("POST", "PUT") else {}


def test_what_another_project_has_is_as_unknown_as_what_never_was(
    control_plane: ControlPlane, theirs: dict[str, str]
) -> None:
    key = made(control_plane, "/v1/keys", {"project": "other", "role": "member", "name": "ci"}, key="admin")["key"]
    own_file = control_plane.upload(key=key)
    never = {name: value[:-4] + ("0000" if value[-4:] != "0000" else "1111") for name, value in theirs.items()}
    before = control_plane.snapshot()
    asked = 0
    for method, path in operations(control_plane):
        if f"{method} {path}".startswith(OWN_TO_EACH_PROJECT) or path.startswith(OWN_TO_EACH_PROJECT):
            continue

        def ask(having: dict[str, str], method: str = method, path: str = path) -> httpx2.Response:
            query = f"?model={having['model']}" if path.startswith("/v1/blobs/") else ""
            options = sent(method, path, file_id=own_file)
            return control_plane.request(method, filled(path, having) + query, key=key, **options)

        foreign, unknown = ask(theirs), ask(never)
        expected = 403 if path.startswith(FOR_ADMINISTRATORS) else 404
        assert foreign.status_code == unknown.status_code == expected, (method, path, foreign.text, unknown.text)
        assert words(foreign, theirs) == words(unknown, never), (method, path)
        asked += 1
    assert asked > 50
    assert control_plane.snapshot() == before


def words(answer: httpx2.Response, having: dict[str, str]) -> str:
    """What an answer says, but for the names that were asked for and what it may propose instead."""
    text = str(answer.json()["error"])
    for value in sorted(having.values(), key=len, reverse=True):
        text = text.replace(value, "X")
    return re.sub(r"\s+", " ", text)
