"""What an attacker sends to the API: odd keys, fields of the service's own, names that are paths, code as numbers.

docs/red-team.md says which of these tests, and of others, tries what.
"""

import json
import re
import socket
import time
from urllib.parse import quote

import httpx2
import pytest

from tests.control_plane import ControlPlane, chat_rows, control_plane, live_control_plane, plane, sha256
from tunesmith.service.models.names import fine_tuned_name

__all__ = ["control_plane", "live_control_plane", "plane"]

NAMES = [
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%252e%252e/passwd",
    "/etc/passwd",
    "C:\\windows\\system32",
    "a\x00b",
    "a\uff0e\uff0e\uff0fb",  # wide letters, which some normal forms make ordinary ones
    "--config=/etc/passwd",
    "x" * 4096,
    "=cmd|' /C calc'!A0",
    "\x1b]0;title\x07\x1b[2J",
    "${jndi:ldap://127.0.0.1/a}{0.__class__}%s%n",
]


def refused(response: httpx2.Response) -> str:
    assert 400 <= response.status_code < 500, response.text
    return str(response.json()["error"]["code"])


class TestKeys:
    def test_what_is_not_the_key_opens_nothing(self, plane: ControlPlane) -> None:
        key = plane.keys["admin"]
        odd = ["Bearer", "Bearer null", "Bearer *", f"Basic {key}", key, f"Bearer {key[:-1]}", f"Bearer {key}x"]
        odd += [f"Bearer {key.swapcase()}", f"Bearer {key} {key}", f"Bearer {sha256(key.encode())}", "Bearer key-admin"]
        for value in odd:
            for path in ("/v1/files", "/metrics", "/internal/wakes?worker_class=x"):
                answer = httpx2.get(plane.url + path, headers={"authorization": value}, verify=False, timeout=60)
                assert (answer.status_code, refused(answer)) == (401, "invalid_api_key"), (path, value)

    def test_a_key_elsewhere_than_in_the_header_is_none(self, plane: ControlPlane) -> None:
        key = plane.keys["admin"]
        for options in (
            {"params": {"api_key": key, "key": key}},
            {"cookies": {"authorization": key}},
            {"auth": ("admin", key)},
        ):
            with httpx2.Client(verify=False, timeout=60, **options) as client:  # type: ignore[arg-type]
                assert client.get(f"{plane.url}/v1/keys").status_code in (400, 401)

    def test_a_method_in_a_header_is_not_the_method(self, plane: ControlPlane) -> None:
        headers = {"authorization": f"Bearer {plane.keys['admin']}", "x-http-method-override": "DELETE"}
        assert (
            httpx2.get(f"{plane.url}/v1/keys/key-member", headers=headers, verify=False, timeout=60).status_code == 405
        )
        assert plane.sql("SELECT revoked_at FROM api_keys WHERE id = 'key-member'") == [(None,)]


class TestJobs:
    @pytest.mark.parametrize(
        "field",
        ["id", "state", "status", "project", "epoch", "attempts_used", "created_at", "finished_at", "api_key_id"],
    )
    def test_what_the_service_decides_cannot_be_sent(self, control_plane: ControlPlane, field: str) -> None:
        body = {"model": "tiny-llama", "training_file": control_plane.upload()}
        for sent in ({**body, field: "x"}, {**body, "tunesmith": {field: "x"}}):
            assert refused(control_plane.request("POST", "/v1/fine_tuning/jobs", json=sent)) == "unknown_parameter"
        assert control_plane.sql("SELECT count(*) FROM jobs") == [(0,)]

    @pytest.mark.parametrize(
        "field",
        ["output_dir", "logging_dir", "report_to", "callbacks", "deepspeed", "trust_remote_code", "resume_from"],
    )
    def test_arguments_of_trainers_are_no_options(self, control_plane: ControlPlane, field: str) -> None:
        options = {field: "/tmp/x"}
        body = {"model": "tiny-llama", "training_file": control_plane.upload()}
        for sent in (
            {**body, "hyperparameters": options},
            {**body, "method": {"type": "supervised", "supervised": {"hyperparameters": options}}},
            {**body, "tunesmith": options},
        ):
            refused(control_plane.request("POST", "/v1/fine_tuning/jobs", json=sent))
        assert control_plane.sql("SELECT count(*) FROM jobs") == [(0,)]

    @pytest.mark.parametrize(
        "value",
        ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, '"__import__(\\"os\\")"', '"!!python/object:os.system"'],
    )
    def test_numbers_are_numbers(self, control_plane: ControlPlane, value: str) -> None:
        file = control_plane.upload()
        for name in ("learning_rate_multiplier", "n_epochs", "batch_size"):
            text = f'{{"model": "tiny-llama", "training_file": "{file}", "hyperparameters": {{"{name}": {value}}}}}'
            refused(control_plane.request("POST", "/v1/fine_tuning/jobs", content=text))

    @pytest.mark.parametrize(
        "model",
        [
            "/etc/passwd",
            "./model",
            "file:///etc/passwd",
            "https://hub/x",
            "git+ssh://host/x",
            "../tiny-llama",
            "x@main",
        ],
    )
    def test_a_model_is_a_name_that_is_registered(self, control_plane: ControlPlane, model: str) -> None:
        body = {"model": model, "training_file": control_plane.upload()}
        refused(control_plane.request("POST", "/v1/fine_tuning/jobs", json=body))

    def test_a_suffix_becomes_no_path_in_a_models_name(self, control_plane: ControlPlane) -> None:
        file = control_plane.upload()
        for name in NAMES:
            body = {"model": "tiny-llama", "training_file": file, "suffix": name}
            answer = control_plane.request("POST", "/v1/fine_tuning/jobs", json=body)
            if answer.status_code == 200:
                made = fine_tuned_name(base="tiny-llama", project="acme", suffix=name, job_id=answer.json()["id"])
                assert re.fullmatch(r"ft(:[a-z0-9][a-z0-9.-]*)+", made), made
            else:
                refused(answer)


class TestNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_a_file_keeps_its_bytes_whatever_it_is_called(self, plane: ControlPlane, name: str) -> None:
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": (quote(name, safe="./:|=-"), chat_rows())}}
        answer = plane.request("POST", "/v1/files", **form)
        if answer.status_code == 200:
            content = plane.request("GET", f"/v1/files/{answer.json()['id']}/content")
            assert content.content == chat_rows()
            header = content.headers["content-disposition"]
            assert header.startswith("attachment; ")
            assert header.isprintable()
            assert not {"/", "\\", "%"} & set(header.partition("filename=")[2])
            assert content.headers["x-content-type-options"] == "nosniff"
            assert content.headers["content-type"] == "application/octet-stream"
        else:
            refused(answer)

    @pytest.mark.parametrize("name", NAMES)
    def test_ids_in_a_path_lead_to_nothing(self, control_plane: ControlPlane, name: str) -> None:
        for path in ("files/{}/content", "fine_tuning/jobs/{}", "models/{}", "schedules/{}", "aliases/{}"):
            answer = control_plane.request("GET", "/v1/" + path.format(quote(name, safe="")))
            assert answer.status_code in (400, 404), (path, answer.text)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_worker_names_no_file_of_a_result_so(self, control_plane: ControlPlane, name: str) -> None:
        attempt = control_plane.claimed()
        file = attempt.put(b"weights").model_dump() | {"name": name}
        answer = attempt.post("artifacts", {"kind": "adapter", "files": [file]})
        assert answer.status_code in (204, 400), answer.text
        stored = control_plane.sql("SELECT count(*) FROM artifacts")
        if answer.status_code == 204:  # an odd name, and no path: the command refuses to write it below a folder
            assert not any(part in name for part in ("/", "\\", "\x00", "%2f", "\x1b")), name
        else:
            assert stored == [(0,)]


class TestConnections:
    @pytest.mark.parametrize(
        "head",
        [
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
            b"GET /v1/files HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        ],
        ids=["two ways to end", "two lengths", "a huge header"],
    )
    def test_a_request_that_two_servers_could_read_differently_opens_nothing(
        self, plane: ControlPlane, head: bytes
    ) -> None:
        address = plane.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), 10) as connection:
            connection.sendall(head)
            said = connection.recv(65536)
        assert said.startswith((b"HTTP/1.1 4", b"")), said
        assert b"200 OK" not in said

    def test_a_thousand_ranges_are_no_more_work_than_one(self, plane: ControlPlane) -> None:
        file = plane.upload()
        ranges = "bytes=" + ",".join(f"{start}-" for start in range(1000))
        began = time.monotonic()
        with plane.http() as client:
            answer = client.get(f"/v1/files/{file}/content", headers={"range": ranges})
        assert answer.status_code in (200, 206, 400, 416)
        assert len(answer.content) <= len(chat_rows())
        assert time.monotonic() - began < 10

    def test_a_body_that_is_said_to_be_packed_is_not_unpacked(self, plane: ControlPlane) -> None:
        with plane.http() as client:
            answer = client.post(
                "/v1/fine_tuning/jobs", content=b"\x1f\x8b" + bytes(64), headers={"content-encoding": "gzip"}
            )
        assert refused(answer) == "invalid_json"

    def test_an_answer_says_nothing_of_what_runs_it(self, plane: ControlPlane) -> None:
        answer = plane.request("GET", "/v1/files")
        assert not {"x-powered-by", "access-control-allow-origin"} & answer.headers.keys()
        assert "Traceback" not in json.dumps(plane.request("GET", "/v1/files/nothing").json())
