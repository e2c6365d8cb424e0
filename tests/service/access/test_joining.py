"""An admin invites a machine; with the token it gets the service's own package, and its own key becomes a worker's."""

import io
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.control_plane import ControlPlane
from tunesmith.service.joining.package import own_wheel
from tunesmith.tuning.values.hashes import sha256_of_text

KEY = "ts-made-by-the-machine-itself"


def invite(plane: ControlPlane, **body: Any) -> dict[str, Any]:
    response = plane.request("POST", "/v1/workers/invitations", key="admin", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def join(plane: ControlPlane, token: str, *, key: str = KEY, **body: Any) -> httpx2.Response:
    asked = {
        "name": "gpu-host",
        "version": version("tunesmith"),
        "key_sha256": sha256_of_text(key),
        "key_hint": key[-4:],
    }
    return plane.request("POST", "/internal/join", key=token, json=asked | body)


def code(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def greets(plane: ControlPlane, key: str) -> int:
    return plane.request("POST", "/internal/greetings", key=key, json={"version": "0"}).status_code


def test_a_machine_that_joins_has_a_key_of_its_own_that_only_works(plane: ControlPlane) -> None:
    invitation = invite(plane, name="gpu-1")
    assert invitation["url"] == plane.url
    answer = join(plane, invitation["token"]).json()
    assert (answer["name"], answer["version"]) == ("gpu-1", version("tunesmith"))
    assert greets(plane, KEY) == 200
    assert plane.request("GET", "/v1/files", key=KEY).status_code == 403
    listed = plane.request("GET", "/v1/workers/invitations", key="admin")
    assert invitation["token"] not in listed.text
    assert [(one["status"], one["key_id"]) for one in listed.json()["data"]] == [("used", answer["key_id"])]
    assert plane.request("DELETE", f"/v1/keys/{answer['key_id']}", key="admin").status_code == 200
    assert greets(plane, KEY) == 401
    assert greets(plane, "worker") == 200


def test_a_token_is_good_once(plane: ControlPlane) -> None:
    token = invite(plane)["token"]
    assert join(plane, token).status_code == 200
    assert code(join(plane, token, key="ts-of-another")) == (401, "join_token_used")
    assert plane.sql("SELECT count(*) FROM api_keys WHERE role = 'worker' AND id <> 'key-worker'") == [(1,)]


def test_of_many_that_join_with_one_token_at_once_one_does(plane: ControlPlane) -> None:
    token = invite(plane)["token"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: join(plane, token, key=f"ts-{number:04}").status_code, range(8)))
    assert sorted(answers) == [200] + [401] * 7


def test_whoever_heard_no_answer_may_ask_again(plane: ControlPlane) -> None:
    token = invite(plane)["token"]
    first, again = join(plane, token), join(plane, token)
    assert (again.status_code, again.json()) == (200, first.json())


def test_a_key_that_is_there_already_joins_nobody(plane: ControlPlane) -> None:
    refused = join(plane, invite(plane)["token"], key=plane.keys["member"])
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "key_sha256")
    assert greets(plane, "member") == 403


def test_an_unknown_an_expired_and_a_withdrawn_token_are_told_apart(plane: ControlPlane) -> None:
    assert code(join(plane, "join-nothing")) == (401, "join_token_unknown")
    expired, withdrawn = invite(plane), invite(plane)
    plane.sql("UPDATE invitations SET expires_at = now() WHERE id = %s", expired["id"])
    gone = plane.request("DELETE", f"/v1/workers/invitations/{withdrawn['id']}", key="admin")
    assert gone.json()["status"] == "expired"
    for invitation in (expired, withdrawn):
        refused = join(plane, invitation["token"])
        assert code(refused) == (401, "join_token_expired")
        assert "tunesmith workers invite" in refused.json()["error"]["hint"]
    assert plane.request("DELETE", "/v1/workers/invitations/none", key="admin").status_code == 404


def test_another_version_is_refused_and_the_token_stays_good(plane: ControlPlane) -> None:
    token = invite(plane)["token"]
    assert code(join(plane, token, version="0.0.1")) == (400, "version_differs")
    assert join(plane, token).status_code == 200


@pytest.mark.parametrize("role", ["member", "worker"])
def test_only_admins_invite(plane: ControlPlane, role: str) -> None:
    assert plane.request("POST", "/v1/workers/invitations", key=role, json={}).status_code == 403


@pytest.mark.parametrize("key", ["worker", "member", "join-nothing"])
def test_no_key_opens_the_package_but_a_join_token(plane: ControlPlane, key: str) -> None:
    assert code(plane.request("GET", "/internal/package/constraints.txt", key=key)) == (401, "join_token_unknown")


def test_joining_stays_on_record(plane: ControlPlane) -> None:
    invitation = invite(plane, name="gpu-1")
    key_id = join(plane, invitation["token"]).json()["key_id"]
    entries = plane.request("GET", "/v1/audit", key="admin")
    told = [(entry["action"], entry["actor"], entry["key_id"]) for entry in entries.json()["data"]]
    assert told == [("worker.joined", "gpu-1", key_id), ("worker.invited", "admin", "key-admin")]
    assert invitation["token"] not in entries.text


def test_pip_takes_the_package_with_its_hash_from_the_service(plane: ControlPlane, tmp_path: Path) -> None:
    """Real pip, with the addresses of the printed line; what it installs is the code that runs here."""
    invitation = invite(plane)
    address = plane.url.replace("://", f"://join:{invitation['token']}@") + "/internal/package"
    wheel = f"tunesmith @ {address}/{invitation['wheel']}#sha256={invitation['wheel_sha256']}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-input", "--target", str(tmp_path)]
    pip = subprocess.run(
        [*command, "--constraint", f"{address}/constraints.txt", wheel], capture_output=True, text=True, check=False
    )
    assert pip.returncode == 0, pip.stderr
    assert invitation["token"] not in pip.stdout + pip.stderr
    looks = "import tunesmith.worker.cli, tunesmith.service.database.migrate as m; print(tunesmith.__file__, m.head())"
    seen = subprocess.run(
        [sys.executable, "-c", looks],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert seen.stdout.startswith(f"{tmp_path}/tunesmith/__init__.py 0")
    assert (tmp_path / "bin" / "tunesmith-worker").exists()
    packs = "from tunesmith.service.joining.package import own_wheel; print(own_wheel().sha256)"
    again = subprocess.check_output([sys.executable, "-c", packs], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert again.decode().strip() == invitation["wheel_sha256"], (
        "a service that was installed from it hands out another"
    )


def test_the_package_is_the_same_bytes_each_time_and_has_nothing_compiled() -> None:
    first = own_wheel()
    own_wheel.cache_clear()
    assert own_wheel() == first
    names = zipfile.ZipFile(io.BytesIO(first.content)).namelist()
    assert len(names) == len(set(names))
    assert not [name for name in names if "__pycache__" in name]
    assert {"tunesmith/constraints.txt", "tunesmith/service/migrations/env.py"} <= set(names)
