"""Models from elsewhere: what is refused at once, what is kept, and what an unreachable hub looks like."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tunesmith.cli.cache import made_aside
from tunesmith.cli.models.hashing import sha256_of
from tunesmith.cli.models.sources import from_gguf, from_hub, to_hub
from tunesmith.cli.trainer import ToolFailed
from tunesmith.tuning.errors import HubFailed, InvalidRequest


def test_a_converted_file_is_found_by_its_hash_whatever_its_name(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).write_bytes(b"GGUF and the rest")
    kept = tmp_path / "cache" / "gguf" / sha256_of(tmp_path / "one.gguf")
    kept.mkdir(parents=True)
    assert from_gguf(tmp_path / "one.gguf", cache=tmp_path / "cache") == kept
    assert from_gguf(tmp_path / "two.gguf", cache=tmp_path / "cache") == kept


def test_a_damaged_gguf_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF and nothing that follows makes sense")
    with pytest.raises(ToolFailed) as caught:
        from_gguf(tmp_path / "bad.gguf", cache=tmp_path / "cache")
    assert "bad.gguf" in caught.value.message
    assert caught.value.hint
    assert list((tmp_path / "cache" / "gguf").iterdir()) == []


@pytest.mark.parametrize("name", ["../etc", "a/b/c", "-x", "a b", "a/b@-x", "a/b@../x", ""])
def test_a_name_that_is_no_hub_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="hub name"):
        from_hub(name)


def test_an_unreachable_hub_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubFailed) as caught:
        from_hub("someone/some-model@main")
    assert "cannot be reached" in caught.value.message
    assert "--path" in str(caught.value.hint)
    assert caught.value.http_status == 503


@pytest.mark.parametrize("name", ["../etc", "a/b/c", "name", "-x/y", "a/../b", ""])
def test_a_name_that_is_no_repository_is_sent_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="hub name"):
        to_hub(tmp_path, name)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports the trainer's environment in this process before has told the library to stay offline."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.usefixtures("online")
def test_a_folder_is_sent_with_the_token_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("the card")
    with stand_in_hub() as (url, asked):
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_this_machine")
        assert to_hub(tmp_path, "anna/support") == f"{url}/anna/support/commit/1"
    paths = [path for path, _, _ in asked]
    assert paths[0] == "/api/repos/create"
    assert paths[-1] == "/api/models/anna/support/commit/main"
    assert b"README.md" in asked[-1][2]
    assert {token for _, token, _ in asked} == {"Bearer hf_of_this_machine"}


@pytest.mark.usefixtures("online")
def test_a_hub_that_lets_nobody_write_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stand_in_hub(status=403) as (url, _):
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(HubFailed, match="does not let you write") as caught:
            to_hub(tmp_path, "anna/support")
    assert "HF_TOKEN" in str(caught.value.hint)


@contextmanager
def stand_in_hub(*, status: int = 200) -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """The hub's routes for a new repository and a commit of small files, and what each was asked."""
    asked: list[tuple[str, str, bytes]] = []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            asked.append((path, self.headers.get("Authorization", ""), content))
            self._answer(_answer(path, content, f"http://{self.headers['Host']}"))

        def do_GET(self) -> None:
            self._answer({"name": "anna", "orgs": [], "sha": "0" * 40})

        def _answer(self, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def _answer(path: str, content: bytes, url: str) -> object:
    if path.endswith("/create"):
        return {"url": f"{url}/anna/support", "id": "anna/support", "name": "anna/support"}
    if "/preupload/" in path:
        files = json.loads(content)["files"]
        return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]}
    return {"commitUrl": f"{url}/anna/support/commit/1", "commitOid": "1" * 40, "success": True}


def test_the_first_of_two_makers_wins(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    with made_aside(target) as slower:
        (slower / "file").write_text("second")
        with made_aside(target) as faster:
            (faster / "file").write_text("first")
    assert (target / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_fails_halfway_is_not_kept(tmp_path: Path) -> None:
    def make_half() -> None:
        with made_aside(tmp_path / "kept") as aside:
            (aside / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        make_half()
    assert list(tmp_path.iterdir()) == []
