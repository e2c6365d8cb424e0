"""`tunesmith keys`, `projects`, `audit` and `workers invite` against the real service."""

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.command import Run, in_process
from tests.control_plane import ControlPlane
from tunesmith.cli.access.join_line import is_this_machine_only, join_line
from tunesmith.tuning.api.access.invitations import NewInvitation


@pytest.fixture
def run(plane: ControlPlane, tmp_path: Path) -> Run:
    service = {"TUNESMITH_URL": plane.url, "TUNESMITH_API_KEY": plane.keys["admin"]}
    return in_process({"PATH": os.environ["PATH"], "TUNESMITH_DATA_DIR": str(tmp_path), "COLUMNS": "200", **service})


def opens(plane: ControlPlane, key: str) -> bool:
    return plane.request("GET", "/v1/files", key=key).status_code == 200


def test_a_key_from_the_command_lives_and_ends_as_it_is_told(run: Run, plane: ControlPlane) -> None:
    created = run("keys", "create", "ci", "--project", "acme", "--expires", "90d")
    assert created.returncode == 0, created.stderr
    key = created.stdout.strip()
    assert opens(plane, key)
    key_id = created.stderr.partition(":")[0]
    rotated = run("keys", "rotate", key_id, "--grace", "1h")
    new = rotated.stdout.strip()
    assert opens(plane, key)
    assert opens(plane, new)
    assert run("keys", "expire", key_id, "--in", "2h").returncode == 0
    assert run("keys", "revoke", key_id).returncode == 0
    assert (opens(plane, key), opens(plane, new)) == (False, True)
    listed = run("keys", "ls", "--project", "acme")
    assert "revoked" in listed.stdout
    assert key not in listed.stdout
    assert run("keys", "expire", key_id).returncode == 2
    assert run("keys", "revoke", "key-none").returncode == 10


def test_a_project_from_the_command_has_the_limits_that_it_was_given(run: Run) -> None:
    assert (
        run("projects", "create", "research", "--running", "4", "--stored", "500G", "--gpu-hours", "2.5").returncode
        == 0
    )
    changed = run("projects", "limit", "research", "--running", "default")
    assert "0 B of 500.0 GB" in changed.stdout
    (found,) = [one for one in json.loads(run("projects", "ls", "-o", "json").stdout) if one["id"] == "research"]
    assert found["limits"] == {
        "running_jobs": None,
        "queued_jobs": 10_000,
        "stored_bytes": 500 * 10**9,
        "gpu_hours_per_month": 2.5,
    }
    assert run("projects", "limit", "research", "--running", "many").returncode == 2


def test_the_audit_log_is_listed(run: Run) -> None:
    run("projects", "create", "research")
    listed = run("audit")
    assert "project.limits_set" in listed.stdout
    assert "research" in listed.stdout


def test_the_printed_line_has_all_that_a_machine_needs(run: Run, plane: ControlPlane) -> None:
    invited = run(
        "workers", "invite", "--name", "gpu 1", "--expires", "30m", "--service-url", "https://train.example.org:8101"
    )
    assert invited.returncode == 0, invited.stderr
    venv, install, join = [shlex.split(part) for part in invited.stdout.split(" && ")]
    assert venv == ["python3", "-m", "venv", "~/tunesmith-worker"]
    token = join[join.index("--token") + 1]
    package = f"https://join:{token}@train.example.org:8101/internal/package"
    assert install[install.index("-c") + 1] == f"{package}/constraints.txt"
    assert install[-1].startswith(f"tunesmith[worker] @ {package}/tunesmith-")
    assert "#sha256=" in install[-1]
    assert "extra-index-url" not in install
    assert join[1:3] == ["join", "https://train.example.org:8101"]
    assert join[-2:] == ["--name", "gpu 1"]
    assert "good once" in invited.stderr
    assert plane.request("GET", "/internal/package/constraints.txt", key=token).status_code == 200
    assert "open" in run("workers", "invitations").stdout


def test_an_address_that_only_this_machine_reaches_is_told(run: Run) -> None:
    assert "reachable from this machine only" in run("workers", "invite").stderr
    assert not is_this_machine_only("http://10.0.0.7:8101")


def test_a_machine_without_a_gpu_gets_the_smaller_build(plane: ControlPlane) -> None:
    answer = plane.request("POST", "/v1/workers/invitations", key="admin", json={})
    invitation = NewInvitation.model_validate_json(answer.content, extra="allow")
    assert "download.pytorch.org/whl/cpu" in join_line(invitation, url=plane.url, cpu_only=True)


def test_workers_alone_still_lists_them(run: Run, plane: ControlPlane) -> None:
    plane.worker("worker-7")
    assert "worker-7" in run("workers").stdout
    assert json.loads(run("workers", "-o", "json").stdout)[0]["id"] == "worker-7"
