"""The outermost layer of every request: its id, its host, its limits, its log line, and the last resort for errors."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from tunesmith.service.settings import Settings
from tunesmith.service.web.errors import BodyTooSlow, WrongHost, error_response
from tunesmith.service.web.limiter import Limiter, Places, TooMany
from tunesmith.tuning.errors import TooLarge, TunesmithError
from tunesmith.tuning.values.limits import MOST_PART_BYTES

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")
_IN_PARTS = "Send a large file in parts of at most 64 MiB: POST /v1/uploads."
_FORM_OVERHEAD_BYTES = 64 * 1024
_SLOWEST_BYTES_PER_SECOND = 1024
_HEALTH = ("/healthz", "/readyz")  # load balancers ask by address, often and without a key
_UPLOAD_PART = re.compile(r"/v1/uploads/[^/]+/parts")
_LONG_BODIES = ("/v1/models", "/v1/chat/completions", "/v1/completions")
_WAITING = re.compile(rb"(?:^|&)(?:wait=|stream=true)")


class Edge:
    """ASGI middleware. A request without an id gets one; it comes back as `x-request-id` and is in every log line."""

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._working = Limiter(settings.max_requests_per_key, what="requests")
        self._waiting = Limiter(settings.max_waits_per_key, what="waiting requests")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        body = _Body(
            receive,
            limit_bytes=self._limit_bytes(scope),
            announced_bytes=_announced_bytes(scope),
            patience_seconds=self._settings.patience_seconds,
        )
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._handle(scope, body.receive, send, request_id=request_id)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, *, request_id: str) -> None:
        started = time.perf_counter()
        status = 0
        places: Places | None = None

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_stamps(request_id, places)]
            await send(message)

        try:
            async with self._admitted(scope) as places:
                await self._app(scope, receive, stamped)
        except TunesmithError as refusal:  # by this layer: those of the routes are answers by now
            if status:
                raise
            if isinstance(refusal, TooMany):
                places = refusal.places
            await error_response(refusal)(scope, receive, stamped)
        except Exception:
            log.exception("request.failed", method=scope["method"], path=scope["path"])
            if status:
                raise  # half an answer is out: only closing the connection tells the client
            await _internal_error(request_id)(scope, receive, stamped)
        finally:
            _log(scope, status=status, milliseconds=round((time.perf_counter() - started) * 1000, 1))

    @asynccontextmanager
    async def _admitted(self, scope: Scope) -> AsyncIterator[Places | None]:
        if scope["path"] in _HEALTH:
            yield None
            return
        self._refuse_other_hosts(scope)
        token = _header(scope, b"authorization")
        if token is None or scope["path"].startswith("/internal/"):  # no key costs no work; all workers share one
            yield None
            return
        with (self._waiting if _only_waits(scope) else self._working).hold(token) as places:
            yield places

    def _refuse_other_hosts(self, scope: Scope) -> None:
        allowed = self._settings.allowed_hosts
        if "*" in allowed:
            return
        host = _without_port((_header(scope, b"host") or b"").decode("latin-1"))
        if host not in allowed:
            raise WrongHost(
                f"This service does not answer for host {host!r:.100}.",
                hint="Its operator can add the name to TUNESMITH_ALLOWED_HOSTS.",
            )

    def _limit_bytes(self, scope: Scope) -> int | None:
        if "/blobs/" in scope["path"]:
            return None  # weights: streamed, hashed, never held in memory, and limited where they are stored
        if scope["path"] == "/v1/files":
            return self._settings.max_upload_bytes + _FORM_OVERHEAD_BYTES
        if _UPLOAD_PART.fullmatch(scope["path"]):
            return MOST_PART_BYTES + _FORM_OVERHEAD_BYTES
        if scope["path"].startswith("/internal/") or scope["path"] in _LONG_BODIES:
            return self._settings.max_report_bytes
        return self._settings.max_body_bytes


class _Body:
    """A request's body as it arrives: refused when it announces or becomes too much, or comes too slowly."""

    def __init__(
        self, receive: Receive, *, limit_bytes: int | None, announced_bytes: int, patience_seconds: float
    ) -> None:
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._announced_bytes = announced_bytes
        self._patience_seconds = patience_seconds
        self._received_bytes = 0
        self._waited_seconds = 0.0  # for the sender, not for whoever takes the bytes away
        self._is_complete = False

    async def receive(self) -> Message:
        """The next message; whoever waits for the end of the connection may wait for ever."""
        if self._is_complete:
            return await self._receive()
        self._refuse_more_than_the_limit(self._announced_bytes)
        message = await self._next()
        self._received_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        self._refuse_more_than_the_limit(self._received_bytes)
        return message

    def _refuse_more_than_the_limit(self, length_bytes: int) -> None:
        if self._limit_bytes is not None and length_bytes > self._limit_bytes:
            hint = _IN_PARTS if self._limit_bytes >= MOST_PART_BYTES else None
            raise TooLarge(f"The request body is larger than {self._limit_bytes:,} bytes.", hint=hint)

    async def _next(self) -> Message:
        allowed_seconds = self._patience_seconds + self._received_bytes / _SLOWEST_BYTES_PER_SECOND
        started = time.monotonic()
        try:
            async with asyncio.timeout(allowed_seconds - self._waited_seconds):
                return await self._receive()
        except TimeoutError:
            came = f"{self._received_bytes:,} bytes in {allowed_seconds:.0f} s of waiting"
            raise BodyTooSlow(f"The request body comes too slowly: {came}.") from None
        finally:
            self._waited_seconds += time.monotonic() - started


def _request_id(scope: Scope) -> str:
    value = _header(scope, b"x-request-id")
    return value.decode() if value and _REQUEST_ID.fullmatch(value) else f"req_{uuid7().hex}"


def _stamps(request_id: str, places: Places | None) -> list[tuple[bytes, bytes]]:
    stamps = {"x-request-id": request_id} | (places.headers if places else {})
    return [(name.encode(), value.encode()) for name, value in stamps.items()]


def _only_waits(scope: Scope) -> bool:
    """A long poll or a stream of events, whichever way it is asked for: it may be open for minutes and costs little.

    Routes refuse a query that they do not know, but take any header: only those that stream events look at this one.
    """
    has_events = scope["method"] == "GET" and scope["path"].endswith("/events")
    asks_for_stream = has_events and b"text/event-stream" in (_header(scope, b"accept") or b"")
    return asks_for_stream or _WAITING.search(scope["query_string"]) is not None


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((bytes(value) for name, value in scope["headers"] if name == wanted), None)


def _announced_bytes(scope: Scope) -> int:
    length = _header(scope, b"content-length") or b"0"
    return int(length) if length.isdigit() else 0


def _without_port(host: str) -> str:
    """`[::1]:8100` is `::1`, `localhost:8100` is `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _internal_error(request_id: str) -> JSONResponse:
    message = f"Something went wrong on our side. The log holds the details under request id {request_id}."
    return error_response(TunesmithError(message))


def _log(scope: Scope, *, status: int, milliseconds: float) -> None:
    write: Any = log.debug if scope["path"] in (*_HEALTH, "/metrics") else log.info
    write("request.handled", method=scope["method"], path=scope["path"], status=status, milliseconds=milliseconds)
