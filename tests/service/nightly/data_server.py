"""An https server that does what servers of data do, and what they should not."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.certificates import self_signed, server_context

HOST = "data.example.com"


@dataclass
class DataServer:
    """What it answers, by path: a status, a body, and headers."""

    port: int
    trust: ssl.SSLContext
    answers: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    later: dict[str, tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)  # once it has answered

    def url(self, path: str) -> str:
        return f"https://{HOST}:{self.port}{path}"

    def put(self, path: str, body: bytes, *, status: int = 200, **headers: str) -> str:
        self.answers[path] = status, body, {name.replace("_", "-"): value for name, value in headers.items()}
        return self.url(path)

    def change(self, path: str, body: bytes, **headers: str) -> None:
        """What it will hold as soon as it has answered once more."""
        self.later[path] = 200, body, headers


@contextmanager
def serving(folder: Path) -> Iterator[DataServer]:
    """A server on the loopback with a certificate for `data.example.com`."""
    certificate = self_signed(folder, names=f"DNS:{HOST},DNS:other.example.com")
    http = _Server(("127.0.0.1", 0), _Handler)
    http.socket = server_context(certificate).wrap_socket(http.socket, server_side=True)
    data = DataServer(http.server_address[1], ssl.create_default_context(cafile=str(certificate)))
    http.data = data  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield data
    http.shutdown()
    http.server_close()
    thread.join(5)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that leaves in the middle is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        data: DataServer = self.server.data  # type: ignore[attr-defined]
        data.asked.append(f"{self.headers['host']} {self.path}")
        status, body, headers = data.answers.get(self.path, (404, b"", {}))
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        data.answers |= {self.path: data.later.pop(self.path)} if self.path in data.later else {}
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return
