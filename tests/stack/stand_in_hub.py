"""The model hub's routes for reading: a commit's list of files, and files behind a redirect as from its storage."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class StandInHub:
    """What it has, by repository, and what it was asked. Safetensors are promised by hash, as large files are."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    cut_once: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def answer(self, path: str) -> Answer:
        """Status, headers and body."""
        self.asked.append(path)
        if path.startswith("/api/models/"):
            identifier, _, revision = path.removeprefix("/api/models/").partition("?")[0].partition("/revision/")
            return self._listing(identifier, revision)
        if path.startswith("/storage/"):
            return 200, {}, self._content(path.removeprefix("/storage/"))
        identifier, _, place = path.lstrip("/").partition("/resolve/")
        return 302, {"Location": f"{self.url}/storage/{identifier}/{place.partition('/')[2]}"}, b""

    def _listing(self, identifier: str, revision: str) -> Answer:
        if identifier not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if unquote(revision) not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.repositories[identifier]
        siblings = [self._sibling(name, data) for name, data in files.items()]
        return 200, {}, json.dumps({"id": identifier, "sha": COMMIT, "siblings": siblings}).encode()

    def _sibling(self, name: str, data: bytes) -> dict[str, object]:
        size = self.sizes.get(name, len(data))
        entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": "0" * 40}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size}
        return entry

    def _content(self, path: str) -> bytes:
        owner, repository, name = path.split("/", 2)
        data = self.repositories[f"{owner}/{repository}"][name]
        if name in self.cut_once:
            self.cut_once.discard(name)
            return data[: len(data) // 2]
        return data


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """One on the loopback."""
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.tokens.add(self.headers.get("Authorization", ""))
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
