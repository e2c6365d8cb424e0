"""A real HTTP server that answers as a test tells it to: away, busy, cut off in the middle, or with a lease lost."""

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Reply:
    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after_bytes: int | None = None  # send fewer bytes than promised, then hang up

    @classmethod
    def json(cls, value: Any, status: int = 200) -> "Reply":
        return cls(status, json.dumps(value).encode(), {"content-type": "application/json"})

    @classmethod
    def error(cls, status: int, code: str, **headers: str) -> "Reply":
        return cls(status, json.dumps({"error": {"message": "No.", "code": code}}).encode(), headers)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedService:
    """Keeps every request. Replies come from a queue per path ending, then from `otherwise`."""

    def __init__(self, *, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.otherwise: Callable[[Request], Reply] = lambda _request: Reply()
        self._scripts: dict[str, deque[Reply]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def script(self, path_end: str, *replies: Reply) -> None:
        self._scripts.setdefault(path_end, deque()).extend(replies)

    def to(self, path_end: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(path_end)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _reply(self, request: Request) -> Reply:
        self.requests.append(request)
        for path_end, replies in self._scripts.items():
            if request.path.endswith(path_end) and replies:
                return replies.popleft()
        return self.otherwise(request)

    def _handler(service) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the handler's below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {key.lower(): value for key, value in self.headers.items()}
                reply = service._reply(Request(self.command, self.path, headers, body))
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: reply.cut_after_bytes])
                if reply.cut_after_bytes is not None:
                    self.close_connection = True

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - names that http.server looks for

            def log_message(self, *_: object) -> None:
                pass

        return Handler
