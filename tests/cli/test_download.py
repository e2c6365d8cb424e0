"""Results come whole or not at all, and no name leads out of the folder. The service is a real one, and hostile."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.command import in_process
from tunesmith.cli.client import Client
from tunesmith.cli.connection import Connection
from tunesmith.cli.results.download import DamagedDownload, UnsafeName, safe_target
from tunesmith.cli.results.pull import pull_artifacts
from tunesmith.tuning.errors import NotFound

CONTENT = b"weights"
TRICKY = ["../escaped", "/etc/passwd", "a/../../escaped", "..", "", "a\\..\\b", "C:evil", "a\0b"]


class HostileService:
    """Answers the two artifact routes with whatever a test wants."""

    def __init__(self) -> None:
        self.artifacts: list[dict[str, Any]] = []
        self.content = CONTENT
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def offer(self, name: str, *, kind: str = "adapter", sha256: str | None = None) -> None:
        promised = sha256 or hashlib.sha256(CONTENT).hexdigest()
        files = [{"name": name, "sha256": promised, "bytes": len(CONTENT)}]
        made_by = {"job_id": "ftjob-1", "attempt_id": "att-1", "created_at": 1_800_000_000, "metadata": {}}
        self.artifacts.append({"id": "art-1", "kind": kind, "files": files, **made_by})

    def client(self) -> Client:
        url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return Client(find=lambda: Connection(base_url=url, api_key="key"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_list = self.path.endswith("/artifacts")
                body = json.dumps({"data": service.artifacts}).encode() if is_list else service.content
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def service() -> Iterator[HostileService]:
    hostile = HostileService()
    thread = threading.Thread(target=hostile.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hostile
    hostile.server.shutdown()
    thread.join()
    hostile.server.server_close()


def test_files_land_below_their_kind(service: HostileService, tmp_path: Path) -> None:
    service.offer("nested/model.safetensors")
    with service.client() as client:
        written = pull_artifacts(client, "ftjob-1", folder=tmp_path)
    assert written == [tmp_path / "adapter" / "nested" / "model.safetensors"]
    assert written[0].read_bytes() == CONTENT


@pytest.mark.parametrize("name", TRICKY)
def test_a_name_that_climbs_out_writes_nothing(service: HostileService, tmp_path: Path, name: str) -> None:
    service.offer("good")
    service.offer(name)
    with service.client() as client, pytest.raises(UnsafeName):
        pull_artifacts(client, "ftjob-1", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("kind", ["..", "", "a/b", "/tmp"])
def test_a_kind_that_is_no_folder_name_is_refused(service: HostileService, tmp_path: Path, kind: str) -> None:
    service.offer("file", kind=kind)
    with service.client() as client, pytest.raises(UnsafeName):
        pull_artifacts(client, "ftjob-1", folder=tmp_path / "out")


def test_a_link_inside_the_folder_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(UnsafeName):
        safe_target(tmp_path / "out", "link/escaped")


def test_wrong_bytes_leave_the_old_file_and_nothing_else(service: HostileService, tmp_path: Path) -> None:
    service.offer("file")
    service.content = b"changed"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "file").write_bytes(b"older")
    with service.client() as client, pytest.raises(DamagedDownload):
        pull_artifacts(client, "ftjob-1", folder=tmp_path)
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["file"]
    assert (tmp_path / "adapter" / "file").read_bytes() == b"older"


def test_a_job_without_results_says_so(service: HostileService, tmp_path: Path) -> None:
    with service.client() as client, pytest.raises(NotFound):
        pull_artifacts(client, "ftjob-1", folder=tmp_path)


def test_a_pull_without_a_folder_says_which_it_takes_and_one_that_was_named_needs_no_word(
    service: HostileService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.offer("adapter_model.safetensors")
    monkeypatch.chdir(tmp_path)
    url = f"http://127.0.0.1:{service.server.server_port}/v1"
    run = in_process({"PATH": os.environ["PATH"], "TUNESMITH_URL": url, "TUNESMITH_API_KEY": "key"})
    job_id = f"ftjob-{'0' * 32}"
    pulled = run("artifacts", "pull", job_id)
    assert pulled.returncode == 0, pulled.stderr
    assert f"into the folder {job_id}; --to FOLDER names another" in pulled.stderr
    assert pulled.stdout == f"{job_id}/adapter/adapter_model.safetensors\n"
    assert (tmp_path / job_id / "adapter" / "adapter_model.safetensors").read_bytes() == CONTENT
    assert "into the folder" not in run("artifacts", "pull", job_id, "--to", "there").stderr
