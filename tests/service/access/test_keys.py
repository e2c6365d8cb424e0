"""An admin makes, lists, rotates, ends and revokes keys over the API; each step stays on record without a secret."""

import time
from typing import Any

import httpx2
import pytest

from tests.control_plane import ControlPlane
from tunesmith.service.keys.cache import KEPT_SECONDS


def post(plane: ControlPlane, path: str, *, key: str = "admin", **body: Any) -> httpx2.Response:
    return plane.request("POST", path, key=key, json=body)


def made(plane: ControlPlane, **body: Any) -> dict[str, Any]:
    response = post(plane, "/v1/keys", **{"name": "ci", "project": "acme", **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


def opens(plane: ControlPlane, key: str) -> bool:
    return plane.request("GET", "/v1/files", key=key).status_code == 200


def let_pass(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a process remembers a key that it has looked up."""
    monkeypatch.setattr(plane.app.state.keys, "_clock", lambda: time.monotonic() + KEPT_SECONDS)


def test_a_new_key_is_shown_once_and_opens_its_project(plane: ControlPlane) -> None:
    new = made(plane)
    assert (new["object"], new["status"], new["role"]) == ("tunesmith.new_key", "valid", "member")
    assert opens(plane, new["key"])
    listed = plane.request("GET", "/v1/keys?project=acme", key="admin")
    assert new["key"] not in listed.text
    assert listed.json()["data"][0]["id"] == new["id"]
    assert listed.json()["data"][0]["hint"] == new["key"][-4:]
    assert plane.sql("SELECT count(*) FROM api_keys WHERE key_sha256 = %s", new["key"]) == [(0,)]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/key-admin")]
)
def test_a_member_may_not_touch_keys(plane: ControlPlane, method: str, path: str) -> None:
    assert plane.request(method, path, key="member", json={"name": "x"}).status_code == 403


def test_a_readers_key_looks_and_changes_nothing(control_plane: ControlPlane) -> None:
    job = control_plane.create_job()
    control_plane.keys["reader"] = made(control_plane, role="reader")["key"]
    assert control_plane.job(job["id"], key="reader")["id"] == job["id"]
    for method, path in (("POST", f"/v1/fine_tuning/jobs/{job['id']}/cancel"), ("DELETE", "/v1/models/tiny-llama")):
        refused = control_plane.request(method, path, key="reader")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    upload = control_plane.request(
        "POST", "/v1/files", key="reader", data={"purpose": "fine-tune"}, files={"file": b"x"}
    )
    assert upload.status_code == 403


def test_after_a_rotation_both_keys_open_until_the_overlap_is_over(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = made(plane)
    new = post(plane, f"/v1/keys/{old['id']}/rotate", overlap_seconds=600).json()
    assert (new["name"], new["role"], new["project"]) == (old["name"], old["role"], old["project"])
    assert opens(plane, old["key"])
    assert opens(plane, new["key"])
    plane.sql("UPDATE api_keys SET expires_at = expires_at - interval '601 seconds' WHERE id = %s", old["id"])
    let_pass(plane, monkeypatch)
    assert not opens(plane, old["key"])
    assert opens(plane, new["key"])


def test_an_overlap_prolongs_no_key(plane: ControlPlane) -> None:
    old = made(plane, expires_in_seconds=60)
    new = post(plane, f"/v1/keys/{old['id']}/rotate", overlap_seconds=86400).json()
    listed = {key["id"]: key for key in plane.request("GET", "/v1/keys", key="admin").json()["data"]}
    assert listed[old["id"]]["expires_at"] == old["expires_at"] == new["expires_at"]


def test_a_rotation_without_overlap_ends_the_old_key_at_once(plane: ControlPlane) -> None:
    old = made(plane)
    assert opens(plane, old["key"])
    post(plane, f"/v1/keys/{old['id']}/rotate", overlap_seconds=0)
    assert not opens(plane, old["key"])


def test_a_key_can_get_an_end_and_lose_it_again(plane: ControlPlane) -> None:
    key = made(plane)
    ends = post(plane, f"/v1/keys/{key['id']}/expiry", expires_in_seconds=60).json()
    assert ends["expires_at"] == pytest.approx(time.time() + 60, abs=30)
    assert post(plane, f"/v1/keys/{key['id']}/expiry", expires_in_seconds=None).json()["expires_at"] is None


def test_a_key_that_has_run_out_says_when(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made(plane, expires_in_seconds=60)
    plane.sql("UPDATE api_keys SET expires_at = '2026-01-02 03:04:05+00' WHERE id = %s", key["id"])
    let_pass(plane, monkeypatch)
    refused = plane.request("GET", "/v1/models", headers={"authorization": f"Bearer {key['key']}"})
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert "ended at 2026-01-02 03:04 UTC" in refused.json()["error"]["message"]


def test_a_revoked_key_opens_nothing_at_once_and_cannot_come_back(plane: ControlPlane) -> None:
    key = made(plane)
    assert opens(plane, key["key"])
    assert plane.request("DELETE", f"/v1/keys/{key['id']}", key="admin").json()["status"] == "revoked"
    assert not opens(plane, key["key"])
    for path in ("rotate", "expiry"):
        refused = post(
            plane, f"/v1/keys/{key['id']}/{path}", **({"expires_in_seconds": None} if path == "expiry" else {})
        )
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "key_has_ended")
    assert plane.request("DELETE", f"/v1/keys/{key['id']}", key="admin").status_code == 200


def test_the_last_admins_key_cannot_be_taken_away(plane: ControlPlane) -> None:
    assert plane.request("DELETE", "/v1/keys/key-stranger", key="admin").status_code == 200
    for response in (
        plane.request("DELETE", "/v1/keys/key-admin", key="admin"),
        post(plane, "/v1/keys/key-admin/expiry", expires_in_seconds=60),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (400, "last_admin_key")
    made(plane, role="admin")
    assert plane.request("DELETE", "/v1/keys/key-admin", key="admin").status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x", "project": "No Such"}, "project"),
        ({"name": "", "project": "acme"}, "name"),
        ({"name": "x", "role": "god"}, "role"),
        ({"name": "x", "expires_in_seconds": 0}, "expires_in_seconds"),
        ({"name": "x", "secret": "mine"}, "secret"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_its_field(plane: ControlPlane, body: dict[str, Any], param: str) -> None:
    refused = post(plane, "/v1/keys", **body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_what_was_done_is_on_record_newest_first_and_without_secrets(plane: ControlPlane) -> None:
    key = made(plane)
    post(plane, f"/v1/keys/{key['id']}/rotate", overlap_seconds=5)
    plane.request("DELETE", f"/v1/keys/{key['id']}", key="admin")
    first = plane.request("GET", "/v1/audit?limit=2", key="admin").json()
    rest = plane.request("GET", f"/v1/audit?after={first['last_id']}", key="admin").json()
    actions = [(entry["action"], entry["actor"], entry["subject"]) for entry in first["data"] + rest["data"]]
    words = ("key.revoked", "key.rotated", "key.created")
    assert actions == [(word, "admin", key["id"]) for word in words]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert "ts-" not in str(first) + str(rest)
    assert plane.request("GET", "/v1/audit", key="member").status_code == 403
    assert plane.request("GET", "/v1/audit?after=audit-x", key="admin").json()["error"]["param"] == "after"


def test_nobody_changes_what_is_on_record(plane: ControlPlane) -> None:
    made(plane)
    for statement in ("UPDATE audit_entries SET actor = 'nobody'", "DELETE FROM audit_entries"):
        with pytest.raises(Exception, match="stays on record"):
            plane.sql(statement)
