"""Large files in parts: what the SDK's chunked helper does, and every way in which parts can fail to be the file."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.control_plane import ControlPlane, chat_rows
from tunesmith.tuning.values.json_objects import Json

ROWS = chat_rows(400)


def create(plane: ControlPlane, *, key: str = "member", **fields: object) -> Json:
    body = {"bytes": len(ROWS), "filename": "rows.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", **fields}
    answer: Json = plane.request("POST", "/v1/uploads", key=key, json=body).json()
    return answer


def send(plane: ControlPlane, upload: Json, data: bytes, *, key: str = "member") -> httpx2.Response:
    return plane.request("POST", f"/v1/uploads/{upload['id']}/parts", key=key, files={"data": ("upload", data)})


def complete(plane: ControlPlane, upload: Json, parts: list[str], **fields: object) -> httpx2.Response:
    body = {"part_ids": parts, **fields}
    return plane.request("POST", f"/v1/uploads/{upload['id']}/complete", json=body)


def sent(plane: ControlPlane, upload: Json, *pieces: bytes) -> list[str]:
    return [send(plane, upload, piece).json()["id"] for piece in pieces]


def stored_parts(plane: ControlPlane) -> int:
    return int(plane.sql("SELECT count(*) FROM upload_parts")[0][0])


def test_the_sdk_sends_a_file_in_parts_and_a_job_trains_on_it(control_plane: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    with control_plane.openai() as client:
        upload = client.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=10_000
        )
        assert upload.status == "completed"
        assert upload.file is not None
        assert upload.file.status == "processed"
        assert client.files.content(upload.file.id).content == ROWS
        assert client.fine_tuning.jobs.create(model="tiny-llama", training_file=upload.file.id).id
    assert stored_parts(control_plane) == 0


def test_parts_may_come_at_once_and_in_any_order(control_plane: ControlPlane) -> None:
    pieces = [ROWS[start : start + 5000] for start in range(0, len(ROWS), 5000)]
    upload = create(control_plane)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda piece: send(control_plane, upload, piece).json()["id"], reversed(pieces)))
    md5 = hashlib.md5(ROWS, usedforsecurity=False).hexdigest()
    done = complete(control_plane, upload, parts[::-1], md5=md5).json()
    assert done["file"]["tunesmith"]["sha256"] == hashlib.sha256(ROWS).hexdigest()
    again = complete(control_plane, upload, parts[::-1], md5=md5).json()
    assert again["file"]["id"] == done["file"]["id"]


def test_a_part_sent_twice_is_left_out(control_plane: ControlPlane) -> None:
    upload = create(control_plane)
    parts = sent(control_plane, upload, ROWS[:9000], ROWS[:9000], ROWS[9000:])
    assert complete(control_plane, upload, [parts[1], parts[2]]).json()["status"] == "completed"


def test_parts_that_are_not_the_file_are_refused_with_the_reason_and_kept(control_plane: ControlPlane) -> None:
    upload = create(control_plane)
    first, second = sent(control_plane, upload, ROWS[:9000], ROWS[9000:])
    for parts, fields, param, words in [
        ([first], {}, "part_ids", "the file was to have"),
        ([first, first, second], {}, "part_ids.1", "named twice"),
        ([first, "part-of-nobody"], {}, "part_ids.1", "is no part of"),
        ([], {}, "part_ids", "at least 1"),
        ([second, first], {"md5": hashlib.md5(ROWS, usedforsecurity=False).hexdigest()}, "md5", "put together"),
    ]:
        error = complete(control_plane, upload, parts, **fields).json()["error"]
        assert (error["param"], words in error["message"]) == (param, True), error
    assert complete(control_plane, upload, [first, second]).json()["status"] == "completed"


def test_bad_rows_are_told_when_the_parts_are_together(control_plane: ControlPlane) -> None:
    upload = create(control_plane, bytes=len(ROWS) + 6)
    done = complete(control_plane, upload, sent(control_plane, upload, ROWS, b"{oops\n")).json()
    assert done["file"]["status"] == "error"
    assert "line 401" in done["file"]["status_details"]


def test_an_upload_that_is_over_takes_nothing_and_lets_go_of_its_bytes(control_plane: ControlPlane) -> None:
    cancelled, expired = create(control_plane), create(control_plane)
    parts = sent(control_plane, cancelled, ROWS) + sent(control_plane, expired, ROWS)
    for _ in range(2):
        ended = control_plane.request("POST", f"/v1/uploads/{cancelled['id']}/cancel")
        assert ended.json()["status"] == "cancelled"
    control_plane.sql("UPDATE uploads SET expires_at = now() - interval '1 second' WHERE id = %s", expired["id"])
    for upload, status in ((cancelled, "cancelled"), (expired, "expired")):
        for refused in (send(control_plane, upload, b"x"), complete(control_plane, upload, parts[-1:])):
            assert refused.status_code == 400
            assert f"is {status}" in refused.json()["error"]["message"]
    assert stored_parts(control_plane) == 1  # until the keeper comes


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"bytes": 0}, "bytes"), ({"bytes": 2**60}, "bytes"), ({"purpose": "mischief"}, "purpose"), ({"size": 1}, "size")],
)
def test_what_can_be_no_file_is_refused_before_a_part_is_sent(
    control_plane: ControlPlane, fields: Json, param: str
) -> None:
    assert create(control_plane, **fields)["error"]["param"] == param


def test_more_than_the_file_was_to_have_is_refused(
    control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.service.uploads.lifecycle.MOST_PART_BYTES", 10)
    upload = create(control_plane, bytes=100)
    assert [send(control_plane, upload, b"x" * 100).status_code for _ in range(3)] == [200, 200, 400]


def test_uploads_of_another_project_do_not_exist(control_plane: ControlPlane) -> None:
    upload = create(control_plane)
    (part,) = sent(control_plane, upload, ROWS)
    path = f"/v1/uploads/{upload['id']}"
    answers = [
        send(control_plane, upload, b"x", key="stranger"),
        control_plane.request("POST", f"{path}/complete", key="stranger", json={"part_ids": [part]}),
        control_plane.request("POST", f"{path}/cancel", key="stranger"),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (404, "upload_not_found")
    ] * 3
