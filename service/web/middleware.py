"""The outermost layer of every request: its id, its size limit, its log line, and the last resort for errors."""

import re
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from tunesmith.service.web.errors import error_response
from tunesmith.tuning.errors import TooLarge, TunesmithError

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_FORM_OVERHEAD_BYTES = 64 * 1024


class Edge:
    """ASGI middleware. A request without an id gets one; it comes back as `x-request-id` and is in every log line."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_upload_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._handle(scope, _limited(receive, self._limit_bytes(scope)), send, request_id=request_id)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        started = time.perf_counter()
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        except Exception:
            log.exception("request.failed", method=scope["method"], path=scope["path"])
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            await _internal_error(request_id)(scope, receive, stamped)
        finally:
            _log(scope, status=status, milliseconds=round((time.perf_counter() - started) * 1000, 1))

    def _limit_bytes(self, scope: Scope) -> int | None:
        if "/blobs/" in scope["path"]:
            return None  # weights: streamed, hashed, never held in memory, and limited where they are stored
        if scope["path"] == "/v1/files":
            return self._max_upload_bytes + _FORM_OVERHEAD_BYTES
        return self._max_body_bytes


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{uuid7().hex}"


def _limited(receive: Receive, limit_bytes: int | None) -> Callable[[], Any]:
    if limit_bytes is None:
        return receive
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit_bytes:
            raise TooLarge(f"The request body is larger than {limit_bytes:,} bytes.")
        return message

    return counted


def _internal_error(request_id: str) -> JSONResponse:
    message = f"Something went wrong on our side. The log holds the details under request id {request_id}."
    return error_response(TunesmithError(message))


def _log(scope: Scope, *, status: int, milliseconds: float) -> None:
    write = log.debug if scope["path"] in ("/healthz", "/readyz", "/metrics") else log.info
    write("request.handled", method=scope["method"], path=scope["path"], status=status, milliseconds=milliseconds)
