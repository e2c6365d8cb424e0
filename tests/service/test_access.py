"""Keys, roles and projects; errors have one shape whatever goes wrong."""

import time

import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from tests.control_plane import TINY_CONFIG, ControlPlane, sha256
from tunesmith.service.keys.cache import KEPT_SECONDS

ERROR_KEYS = {"message", "type", "param", "code", "hint"}
DOCUMENTS = ("/docs", "/openapi.json")


def all_routes(plane: ControlPlane) -> list[tuple[str, str]]:
    """Every method and path of the application, but for its documents."""
    routes = [route for route in iter_route_contexts(plane.app.routes) if route.path not in DOCUMENTS]
    return [(method, route.path) for route in routes for method in route.methods or ()]


def is_error(response: httpx2.Response, status: int, code: str | None = None) -> bool:
    error = response.json()["error"]
    assert set(error) == ERROR_KEYS, error
    assert response.headers["x-request-id"]
    assert (response.status_code, error["code"]) == (status, code or error["code"])
    return True


def test_every_route_requires_a_key(control_plane: ControlPlane) -> None:
    routes = all_routes(control_plane)
    assert len(routes) > 30
    for method, path in routes:
        if path in ("/", "/healthz", "/readyz"):
            continue
        assert path.startswith(("/v1/", "/internal/")) or path == "/metrics"
        bare = httpx2.request(method, control_plane.url + path, verify=False)
        assert bare.status_code == 401, (method, path, bare.text)
        assert is_error(bare, 401)
        wrong = control_plane.request(method, path, key="ts-wrong")
        assert wrong.status_code == 401, (method, path, wrong.text)


def test_a_worker_key_opens_internal_routes_only_and_a_member_key_none_of_them(control_plane: ControlPlane) -> None:
    for path in ("/v1/files", "/v1/models", "/v1/fine_tuning/jobs", "/v1/workers"):
        assert is_error(control_plane.request("GET", path, key="worker"), 403, "permission_denied")
    assert is_error(control_plane.request("POST", "/internal/claims", key="member"), 403)
    assert is_error(control_plane.request("POST", "/v1/models", key="member", json={}), 403)
    assert is_error(control_plane.request("GET", "/v1/workers", key="member"), 403)


def test_objects_of_another_project_do_not_exist(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.succeed()
    job = control_plane.job(attempt.job_id)
    artifact = control_plane.request("GET", f"/v1/fine_tuning/jobs/{job['id']}/artifacts").json()["data"][0]
    paths = [
        f"/v1/fine_tuning/jobs/{job['id']}{tail}"
        for tail in ("", "/events", "/checkpoints", "/metrics", "/attempts", "/trackers", "/artifacts")
    ]
    paths += [f"/v1/files/{job['training_file']}", f"/v1/files/{job['training_file']}/content"]
    paths += [
        f"/v1/models/{job['fine_tuned_model']}",
        f"/v1/artifacts/{artifact['id']}/files/adapter_model.safetensors",
    ]
    sha256 = control_plane.request("GET", paths[-2]).json()["tunesmith"]["files"][0]["sha256"]
    paths += [f"/v1/blobs/{sha256}?model={job['fine_tuned_model']}"]
    for path in paths:
        assert control_plane.request("GET", path).status_code == 200, path
        assert is_error(control_plane.request("GET", path, key="stranger"), 404), path
    for action in ("cancel", "pause", "resume"):
        response = control_plane.request("POST", f"/v1/fine_tuning/jobs/{job['id']}/{action}", key="stranger")
        assert is_error(response, 404)
    assert is_error(control_plane.request("DELETE", f"/v1/models/{job['fine_tuned_model']}", key="stranger"), 404)
    for path in ("/v1/fine_tuning/jobs", "/v1/files"):
        assert control_plane.request("GET", path, key="stranger").json()["data"] == []
    body = {"model": "tiny-llama", "training_file": job["training_file"]}
    refused = control_plane.request("POST", "/v1/fine_tuning/jobs", key="stranger", json=body)
    assert is_error(refused, 400, "file_not_found")


def test_a_file_is_read_through_a_model_that_has_it(control_plane: ControlPlane) -> None:
    attempt = control_plane.claimed()
    attempt.succeed()
    name = control_plane.job(attempt.job_id)["fine_tuned_model"]
    shown, base = (control_plane.request("GET", f"/v1/models/{it}").json()["tunesmith"] for it in (name, "tiny-llama"))
    (file, under) = shown["files"][0]["sha256"], base["files"][0]["sha256"]
    assert sha256(control_plane.request("GET", f"/v1/blobs/{under}?model=tiny-llama", key="stranger").content) == under
    assert is_error(control_plane.request("GET", f"/v1/blobs/{file}?model=tiny-llama"), 404)
    assert is_error(control_plane.request("GET", f"/v1/blobs/{file}"), 400)


def test_a_revoked_key_is_refused_after_five_seconds(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plane.request("GET", "/v1/models").status_code == 200
    plane.sql("UPDATE api_keys SET revoked_at = now() WHERE id = 'key-member'")
    monkeypatch.setattr(plane.app.state.keys, "_clock", lambda: time.monotonic() + KEPT_SECONDS)
    assert is_error(plane.request("GET", "/v1/models"), 401, "invalid_api_key")


def test_keys_are_stored_hashed_and_their_use_is_remembered(plane: ControlPlane) -> None:
    plane.request("GET", "/v1/models")
    row = plane.sql("SELECT k::text, last_used_at FROM api_keys k WHERE id = 'key-member'")[0]
    assert plane.keys["member"] not in row[0]
    assert row[1] is not None


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("PATCH", "/v1/files", 405, "method_not_allowed"),
        ("GET", "/v1/files?limit=many", 400, "invalid_value"),
        ("GET", "/v1/files?limit=0", 400, "invalid_value"),
        ("GET", "/v1/files?after=file-nothing", 404, "file_not_found"),
        ("GET", "/v1/files/%00", 400, "invalid_request"),
        ("GET", "/v1/fine_tuning/jobs?after=ftjob-nothing", 404, "fine_tuning_job_not_found"),
        ("GET", "/v1/models/no/such/model", 404, "model_not_found"),
        ("POST", "/v1/files", 400, "missing_required_parameter"),
    ],
)
def test_every_error_has_the_same_shape(
    control_plane: ControlPlane, method: str, path: str, status: int, code: str
) -> None:
    assert is_error(control_plane.request(method, path), status, code)


def test_an_unexpected_error_is_a_500_with_a_request_id_and_no_trace(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError("the secret detail")

    monkeypatch.setattr("tunesmith.service.models.store.find_many", broken)
    response = control_plane.request("GET", "/v1/models", headers={"x-request-id": "mine-1"})
    assert is_error(response, 500, "internal_error")
    assert response.headers["x-request-id"] == "mine-1"
    assert "mine-1" in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_a_body_that_is_too_large_is_refused(control_plane: ControlPlane) -> None:
    body = b'{"model": "' + b"x" * (17 * 1024**2) + b'"}'
    assert is_error(control_plane.request("POST", "/v1/fine_tuning/jobs", content=body), 413, "request_too_large")


class TestRegisteringModels:
    def body(self, **changes: object) -> dict[str, object]:
        files = [{"name": name, "sha256": "0" * 64, "bytes": 1} for name in ("config.json", "model.safetensors")]
        return {"name": "m", "files": files, "config": TINY_CONFIG, **changes}

    def post(self, plane: ControlPlane, **changes: object) -> httpx2.Response:
        return plane.request("POST", "/v1/models", key="admin", json=self.body(**changes))

    def test_missing_blobs_are_named_and_the_model_waits(self, plane: ControlPlane) -> None:
        ours = self.post(plane).json()["tunesmith"]
        assert (ours["status"], ours["missing"]) == ("incomplete", ["0" * 64])
        assert plane.request("GET", "/v1/models").json()["data"] == []
        refused = plane.request("POST", "/v1/fine_tuning/jobs", json={"model": "m", "training_file": "f"})
        assert is_error(refused, 400, "model_not_ready")

    def test_bytes_that_do_not_match_their_name_are_not_stored(self, plane: ControlPlane) -> None:
        refused = plane.request("PUT", f"/v1/blobs/{'0' * 64}", key="admin", content=b"something else")
        assert is_error(refused, 400, "hash_mismatch")
        assert self.post(plane).json()["tunesmith"]["missing"] == ["0" * 64]
        assert is_error(plane.request("PUT", "/v1/blobs/..%2f..%2fetc", key="admin", content=b"x"), 404)

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"name": "../up"}, "name"),
            ({"name": "ft:mine:acme::1"}, "name"),
            ({"config": {"model_type": "unheard-of"}}, "config.model_type"),
            ({"config": {**TINY_CONFIG, "hidden_size": -1}}, "config.hidden_size"),
            ({"files": [{"name": "/etc/passwd", "sha256": "0" * 64, "bytes": 1}]}, "files.name"),
            ({"files": [{"name": "a/../../b", "sha256": "0" * 64, "bytes": 1}]}, "files.name"),
            ({"files": [{"name": "config.json", "sha256": "0" * 64, "bytes": 1}]}, "files"),
            ({"files": [{"name": "pytorch_model.bin", "sha256": "0" * 64, "bytes": 1}]}, "files"),
            ({"files": []}, "files"),
            ({"nome": "x"}, "nome"),
        ],
    )
    def test_a_broken_registration_names_the_field(
        self, plane: ControlPlane, changes: dict[str, object], param: str
    ) -> None:
        response = self.post(plane, **changes)
        assert is_error(response, 400)
        assert response.json()["error"]["param"] == param

    def test_a_ready_model_is_not_replaced_by_another_of_its_name(self, control_plane: ControlPlane) -> None:
        assert is_error(self.post(control_plane, name="tiny-llama"), 400, "model_exists")
        assert control_plane.request("DELETE", "/v1/models/tiny-llama", key="member").status_code == 403
        assert control_plane.request("DELETE", "/v1/models/tiny-llama", key="admin").status_code == 200
        assert control_plane.request("GET", "/v1/models/tiny-llama").status_code == 404
