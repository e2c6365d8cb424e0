"""Uploads: checked line by line, and kept whatever the check says."""

import json

import httpx2
import pytest

from tests.control_plane import ControlPlane, chat_rows, sha256


def upload(plane: ControlPlane, data: bytes, **form: str) -> httpx2.Response:
    fields = {"purpose": "fine-tune", **form}
    return plane.request("POST", "/v1/files", data=fields, files={"file": ("rows.jsonl", data)})


def test_a_good_file_is_processed_with_its_counts(plane: ControlPlane) -> None:
    file = upload(plane, chat_rows(12)).json()
    report = file["tunesmith"]["report"]
    assert (file["status"], file["status_details"], file["bytes"]) == ("processed", None, len(chat_rows(12)))
    assert (report["rows"], report["format"], report["kind"]) == (12, "chat", "supervised")
    assert 0 < report["supervised_tokens"] < report["tokens"]


def test_a_bad_file_is_kept_with_line_numbers_and_reasons(plane: ControlPlane) -> None:
    bad = chat_rows(2) + b"{oops\n" + json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()
    file = upload(plane, bad).json()
    assert file["status"] == "error"
    assert file["status_details"].startswith("2 of 4 rows cannot be trained on. line 3: not valid JSON")
    assert "line 4: there is no assistant message" in file["status_details"]
    assert plane.request("GET", f"/v1/files/{file['id']}/content").content == bad


def test_a_very_long_line_and_an_empty_file_have_clear_reasons(plane: ControlPlane) -> None:
    long = upload(plane, b'{"text": "' + b"x" * (20 * 1024**2) + b'"}\n').json()
    assert "line 1: the row is longer than 2 MiB" in long["status_details"]
    assert upload(plane, b"").json()["status_details"] == "The file has no rows."


def test_content_comes_back_as_it_was_sent_whole_or_in_part(plane: ControlPlane) -> None:
    data = chat_rows(100)
    path = f"/v1/files/{upload(plane, data).json()['id']}/content"
    assert plane.request("GET", path).content == data
    for header, expected in {"bytes=5-9": data[5:10], "bytes=100-": data[100:], "bytes=-7": data[-7:]}.items():
        part = plane.request("GET", path, headers={"range": header})
        assert (part.status_code, part.content) == (206, expected)
    assert plane.request("GET", path, headers={"range": f"bytes={len(data)}-"}).status_code == 416
    whole = plane.request("GET", path, headers={"range": "rows=0-1"})
    assert (whole.status_code, whole.content, "content-range" in whole.headers) == (200, data, False)


def test_a_range_of_absurd_numbers_is_a_range(plane: ControlPlane) -> None:
    data = chat_rows()
    path = f"/v1/files/{upload(plane, data).json()['id']}/content"
    huge = "9" * 5000
    for header, status, content in (
        (f"bytes=3-{huge}", 206, data[3:]),
        (f"bytes=-{huge}", 206, data),
        (f"bytes={huge}-", 416, b""),
        ("bytes=" + "0" * 5000 + "1-1", 206, data[1:2]),
        ("bytes=\u00b2-\u00b3".encode("latin1"), 416, b""),
    ):
        part = plane.request("GET", path, headers={"range": header})
        assert (part.status_code, part.content) == (status, content), header[:20]


def test_a_file_of_another_purpose_is_not_checked(plane: ControlPlane) -> None:
    file = upload(plane, b"\xff\xfe anything", purpose="user_data").json()
    assert (file["status"], file["tunesmith"]["report"]) == ("processed", None)
    assert file["tunesmith"]["sha256"] == sha256(b"\xff\xfe anything")


def test_a_deleted_or_expired_file_is_gone(plane: ControlPlane) -> None:
    first = upload(plane, chat_rows()).json()["id"]
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    second = upload(plane, chat_rows(), **fields).json()
    assert second["expires_at"] == second["created_at"] + 3600
    assert plane.request("DELETE", f"/v1/files/{first}").json() == {"id": first, "object": "file", "deleted": True}
    plane.sql("UPDATE files SET expires_at = now() - interval '1 s' WHERE id = %s", second["id"])
    for file_id in (first, second["id"]):
        assert plane.request("GET", f"/v1/files/{file_id}").status_code == 404
    assert plane.request("GET", "/v1/files").json()["data"] == []


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "fine_tune"}, "purpose"),
        ({"porpoise": "x"}, "porpoise"),
        ({"expires_after[seconds]": "5"}, "expires_after.anchor"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}, "expires_after.seconds"),
    ],
)
def test_a_wrong_form_names_the_field(plane: ControlPlane, form: dict[str, str], param: str) -> None:
    response = upload(plane, chat_rows(), **form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_lists_filter_by_purpose_and_go_either_way(plane: ControlPlane) -> None:
    ids = [upload(plane, chat_rows()).json()["id"] for _ in range(3)]
    upload(plane, b"x", purpose="user_data")
    ascending = plane.request("GET", "/v1/files?purpose=fine-tune&order=asc&limit=2").json()
    assert ([file["id"] for file in ascending["data"]], ascending["has_more"]) == (ids[:2], True)
    rest = plane.request("GET", f"/v1/files?purpose=fine-tune&order=asc&after={ascending['last_id']}").json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[2:], False)


def test_a_file_name_is_never_a_path(plane: ControlPlane) -> None:
    response = plane.request(
        "POST", "/v1/files", data={"purpose": "user_data"}, files={"file": ("../../etc/passwd\r\nx: y", b"x")}
    )
    content = plane.request("GET", f"/v1/files/{response.json()['id']}/content")
    assert content.headers["content-disposition"] == 'attachment; filename="etc_passwd_0D_0Ax__y"'
