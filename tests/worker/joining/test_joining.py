"""Joining from the machine's side: mistakes are told at once, each with what to do; its key is its owner's alone."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.worker.joining import doctor, membership
from tunesmith.worker.joining.doctor import Level
from tunesmith.worker.joining.membership import Membership

OURS = {"x-request-id": "req_1"}
GREETING = Reply(200, b'{"service": "tunesmith", "version": "9.9", "at": 1000.0}', OURS)


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"PATH": os.environ["PATH"], "HOME": environment.pop("HOME", "/nowhere"), **environment}
    line = [sys.executable, "-m", "tunesmith.worker.cli", *words]
    return subprocess.run(line, env=settings, capture_output=True, text=True, timeout=240, check=False)


def refused(service_code: str) -> Reply:
    reply = Reply.error(401, service_code, **OURS)
    return Reply(reply.status, reply.body.replace(b'"No."', b'"No.", "hint": "Do this."'), reply.headers)


def test_a_machine_that_joined_runs_with_nothing_but_its_file(service: ScriptedService, tmp_path: Path) -> None:
    service.script("/join", Reply(200, b'{"name": "gpu-1", "key_id": "key-1", "version": "0"}', OURS))
    work = tmp_path / ".local/share/tunesmith-worker"
    work.mkdir(parents=True)
    (work / "worker-id").write_text("worker-of-an-older-key")
    ended = command("join", service.url, "--token", "join-x", "--no-run", HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert not (work / "worker-id").exists()
    (asked,) = service.to("/join")
    assert asked.headers["authorization"] == "Bearer join-x"
    file = work / "membership.json"
    joined = Membership.model_validate_json(file.read_bytes())
    assert asked.json["key_sha256"] == sha256_of_text(joined.key)
    assert joined.key not in ended.stdout + ended.stderr
    assert (joined.url, joined.name, file.stat().st_mode & 0o777) == (service.url, "gpu-1", 0o600)
    environment = {"HOME": str(tmp_path), "TUNESMITH_WORK_DIR": str(file.parent)}
    assert membership.complete(environment) == joined
    assert environment["TUNESMITH_URL"] == service.url
    assert environment["TUNESMITH_WORKER_KEY"] == joined.key


def test_settings_that_have_a_key_go_before_the_file(tmp_path: Path) -> None:
    membership.remember(tmp_path, Membership(url="http://joined", key="ts-joined", name="n"))
    environment = {"TUNESMITH_WORK_DIR": str(tmp_path), "TUNESMITH_URL": "http://set", "TUNESMITH_WORKER_KEY": "ts-set"}
    assert membership.complete(environment) is None
    assert (environment["TUNESMITH_URL"], environment["TUNESMITH_WORKER_KEY"]) == ("http://set", "ts-set")


def test_an_address_that_a_client_s_shell_has_set_does_not_part_a_worker_from_its_service(tmp_path: Path) -> None:
    joined = Membership(url="http://joined", key="ts-joined", name="n")
    membership.remember(tmp_path, joined)
    environment = {"TUNESMITH_WORK_DIR": str(tmp_path), "TUNESMITH_URL": "http://client/v1"}
    assert membership.complete(environment) == joined
    assert (environment["TUNESMITH_URL"], environment["TUNESMITH_WORKER_KEY"]) == ("http://joined", "ts-joined")


def test_a_file_may_hold_the_key(tmp_path: Path) -> None:
    (tmp_path / "worker.key").write_text("ts-from-a-file\n")
    environment = {"TUNESMITH_WORK_DIR": str(tmp_path), "TUNESMITH_WORKER_KEY_FILE": str(tmp_path / "worker.key")}
    membership.complete(environment)
    assert environment["TUNESMITH_WORKER_KEY"] == "ts-from-a-file"


@pytest.mark.parametrize("code", ["join_token_unknown", "join_token_used", "join_token_expired"])
def test_a_token_that_is_not_good_is_told_with_what_to_do(service: ScriptedService, tmp_path: Path, code: str) -> None:
    service.script("/join", refused(code))
    ended = command("join", service.url, "--token", "join-x", "--no-run", HOME=str(tmp_path))
    assert (ended.returncode, ended.stderr.strip()) == (1, "tunesmith-worker: No. Do this.")
    assert list(tmp_path.rglob("membership.json")) == []


def test_what_is_no_service_is_told_at_once(service: ScriptedService, tmp_path: Path) -> None:
    for reply in (Reply(200, b"<html>welcome</html>"), Reply(404, b"not found"), Reply(301, headers={"location": "/"})):
        service.script("/join", reply)
        ended = command("join", service.url, "--token", "join-x", "--no-run", HOME=str(tmp_path))
        assert ended.returncode == 1
        assert "is no Tunesmith service" in ended.stderr
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
        silent = command("join", nowhere, "--token", "join-x", "--no-run", HOME=str(tmp_path))
    assert silent.returncode == 1
    assert "does not answer" in silent.stderr
    assert "firewall" in silent.stderr
    assert "no address" in command("join", "host:8101", "--token", "x", HOME=str(tmp_path)).stderr


@pytest.mark.parametrize("reply", [refused("invalid_api_key"), Reply(200, b"something else")])
def test_a_wrong_key_or_address_ends_a_run_before_the_machine_is_measured(
    service: ScriptedService, tmp_path: Path, reply: Reply
) -> None:
    service.otherwise = lambda _request: reply
    settings = {"TUNESMITH_URL": service.url, "TUNESMITH_WORKER_KEY": "ts-x", "TUNESMITH_WORK_DIR": str(tmp_path)}
    ended = command("run", **settings, TUNESMITH_MEASURE_CONSTANTS="true")
    assert ended.returncode == 1
    assert [request.path for request in service.requests] == ["/internal/greetings"]
    assert not (tmp_path / "constants.json").exists()


class TestDoctor:
    def findings(self, service: ScriptedService, reply: Reply, *, now: float = 1000.0) -> dict[str, doctor.Finding]:
        service.otherwise = lambda _request: reply
        return {finding.subject: finding for finding in doctor._service(service.url, "ts-x", clock=lambda: now)}

    def test_the_service_its_version_and_its_clock_are_looked_at(self, service: ScriptedService) -> None:
        found = self.findings(service, GREETING, now=940.0)
        assert found["service"].level is Level.OK
        assert (found["version"].level, "9.9" in found["version"].text) == (Level.WARN, True)
        assert (found["clock"].level, found["clock"].text) == (Level.WARN, "the service's is 60.0 s ahead")
        assert self.findings(service, GREETING)["clock"].level is Level.OK

    def test_a_wrong_key_is_a_failure_with_a_next_step(self, service: ScriptedService) -> None:
        found = self.findings(service, refused("invalid_api_key"))["service"]
        assert (found.level, found.next_step) == (Level.FAIL, "Do this.")
        assert doctor._service(None, None, clock=time.time)[0].level is Level.FAIL

    @pytest.mark.parametrize(
        ("found", "has_gpu", "level"),
        [
            ({"torch": "2.13.0", "cuda": "13.0", "usable": True}, True, Level.OK),
            ({"torch": "2.13.0+cpu", "cuda": None, "usable": False}, True, Level.FAIL),
            ({"torch": "2.13.0", "cuda": "13.0", "usable": False}, True, Level.FAIL),
            ({"torch": "2.13.0+cpu", "cuda": None, "usable": False}, False, Level.OK),
        ],
    )
    def test_a_build_of_torch_that_cannot_use_the_gpu_is_a_failure(
        self, found: dict[str, object], has_gpu: bool, level: Level
    ) -> None:
        torch, bitsandbytes = doctor._libraries({**found, "bitsandbytes_error": "away"}, has_gpu=has_gpu)
        assert torch.level is level
        assert bitsandbytes.level is (Level.FAIL if has_gpu else Level.WARN)

    @pytest.mark.torch
    @pytest.mark.slow
    def test_the_command_looks_at_this_machine_and_fails_where_it_has_joined_nothing(self, tmp_path: Path) -> None:
        ended = command("doctor", HOME=str(tmp_path))
        assert ended.returncode == 1
        for subject in ("service", "gpus", "torch", "bitsandbytes", "disk", "sandbox"):
            assert f" {subject} " in ended.stdout, ended.stdout
