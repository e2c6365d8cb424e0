"""A disk of the service that becomes read-only: uploads are refused in words, and nothing is half registered."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.control_plane import ControlPlane, sha256
from tests.stack.read_only_disk import ReadOnlyLater
from tests.stack.services import SERVICE_PROGRAM, free_port
from tests.waiting import eventually

LARGE = b'{"text": "x"}\n' * 200_000  # more than is held in memory before it is put aside


class Site:
    """An API whose store and spool lie in one folder."""

    def __init__(self, plane: ControlPlane, process: "subprocess.Popen[bytes]") -> None:
        self.plane = plane
        self.process = process


@pytest.fixture
def disk(tmp_path: Path) -> ReadOnlyLater:
    return ReadOnlyLater(tmp_path / "disk")


@pytest.fixture
def site(plane: ControlPlane, tmp_path: Path, disk: ReadOnlyLater) -> Iterator[Site]:
    folder, port = tmp_path / "disk", free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": plane.settings.database_url,
        "TUNESMITH_STORE": f"file://{folder}/store",
        "TUNESMITH_SPOOL_DIR": f"{folder}/spool",
    }
    command = disk.around([SERVICE_PROGRAM, "serve", "--port", str(port)])
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: answers(url), what=(tmp_path / "log").read_text)
        with plane.served_at(url) as served:
            yield Site(served, process)
    finally:
        process.kill()
        process.wait()


def test_a_read_only_disk_refuses_uploads_in_words_of_its_own_and_registers_nothing(
    site: Site, disk: ReadOnlyLater
) -> None:
    plane = site.plane
    file_id = plane.upload()
    before = plane.snapshot()
    disk.make_read_only(site.process.pid)
    blob = f"/v1/blobs/{sha256(b'weights')}"
    refused = [
        upload(plane, b'{"text": "x"}\n'),
        upload(plane, LARGE),
        plane.request("PUT", blob, key="admin", content=b"weights"),
    ]
    for answer in refused:
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), answer.text
        assert answer.json()["error"]["code"] == "disk_unusable"
    assert plane.request("GET", f"/v1/files/{file_id}/content").status_code == 200
    readiness = plane.request("GET", "/readyz")
    assert (readiness.status_code, readiness.json()["checks"]["store"] != "ok") == (503, True)
    after = plane.snapshot()
    assert after["files"] == before["files"]
    assert plane.sql("SELECT 1 FROM blobs WHERE is_stored AND sha256 = %s", sha256(b"weights")) == []


def upload(plane: ControlPlane, rows: bytes) -> httpx2.Response:
    form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("rows.jsonl", rows)}}
    return plane.request("POST", "/v1/files", **form)


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/healthz").is_success
    except httpx2.TransportError:
        return False
