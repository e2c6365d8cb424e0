"""Requests to one service: its address and key, patience while it restarts, answers as the models they are."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import ValidationError

from tunesmith.cli.client.errors import ServiceError, Unreachable, explained, service_error
from tunesmith.cli.connection import Connection, NotConnected, find_connection
from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.values.json_objects import Json

UPLOAD_TIMEOUT = httpx2.Timeout(600, connect=5)
PIECE_BYTES = 1024 * 1024

Kind = TypeVar("Kind", bound=Answer)

_RETRY_DELAYS_SECONDS = (0.2, 0.6, 1.5)
_TIMEOUT = httpx2.Timeout(60, connect=5)
_RETRIED_STATUSES = frozenset({409, 429, 502, 503, 504})  # 409: the same request is still being handled


class Transport:
    """A connection to one service. One that is lost is looked up again, so the service may move to another port."""

    def __init__(
        self,
        *,
        find: Callable[[], Connection] = find_connection,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._find = find
        self._sleep = sleep
        self.connection = find()
        self._http = httpx2.Client(timeout=_TIMEOUT, transport=transport, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """Whether the service and its database and queue answer."""
        root = self.connection.base_url.removesuffix("/v1")
        try:
            return self._http.get(f"{root}/readyz").is_success
        except httpx2.TransportError:
            return False

    def ask(self, kind: type[Kind], method: str, path: str, **request: Any) -> Kind:
        """The answer of any route, as a `kind`. POST is sent once unless `is_repeatable`."""
        return _read(kind, self.send(method, path, **request))

    def send(
        self,
        method: str,
        path: str,
        *,
        is_repeatable: bool | None = None,
        content: Callable[[], Iterator[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> httpx2.Response:
        """Send until it is answered or patience ends. What may have been carried out is repeated only if harmless."""
        is_repeatable = method in ("GET", "PUT", "DELETE") if is_repeatable is None else is_repeatable
        for delay_seconds in (*_RETRY_DELAYS_SECONDS, None):
            try:
                body: Json = {} if content is None else {"content": content()}
                with explained(self.connection):
                    answer = self._http.request(
                        method, self._url(path), headers=self._headers(headers), **request, **body
                    )
                if delay_seconds is None or not is_repeatable or not _may_pass(answer):
                    return _checked(answer)
            except Unreachable as error:
                if delay_seconds is None or not (is_repeatable or _never_arrived(error)):
                    raise
            self._sleep(delay_seconds)
            self._look_again()
        raise AssertionError("the last round returns or raises")

    @contextmanager
    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> Iterator[httpx2.Response]:
        """An answer whose body has not been read yet; leaving the block early gives the rest up.

        Raises:
            ServiceError: the service refuses.
            Unreachable: it does not answer, or the connection broke inside the block.
        """
        stream = self._http.stream(method, self._url(path), headers=self._headers(headers), **request)
        with explained(self.connection), stream as answer:
            if answer.is_error:
                answer.read()
                raise service_error(answer)
            yield answer

    @contextmanager
    def pieces(self, path: str) -> Iterator[Iterator[bytes]]:
        """The bytes of a file, wherever the service says that it lies."""
        with self.stream("GET", path, follow_redirects=True) as answer:
            yield answer.iter_bytes(PIECE_BYTES)

    def _look_again(self) -> None:
        try:
            self.connection = self._find()
        except NotConnected:
            return  # it may be about to come back: the old address is as good as any

    def _url(self, path: str) -> str:
        return self.connection.base_url.rstrip("/") + path

    def _headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.connection.api_key}", **(more or {})}


def job_path(job_id: str) -> str:
    """The route of a job: an id cannot become another path."""
    return f"/fine_tuning/jobs/{quote(job_id, safe='')}"


def _read(kind: type[Kind], answer: httpx2.Response) -> Kind:
    """The answer; what a newer service has added to it is no error."""
    try:
        return kind.model_validate_json(answer.content, extra="allow")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            what = "something that is not JSON"
        else:
            what = (
                f"something that this version does not understand: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            )
        raise ServiceError(
            f"{answer.url} answered {answer.status_code} with {what}.",
            http_status=500,
            hint="is this address really a Tunesmith service, and of this version? see `tunesmith doctor`",
        ) from error


def _may_pass(answer: httpx2.Response) -> bool:
    return answer.status_code in _RETRIED_STATUSES and answer.headers.get("x-should-retry") != "false"


def _never_arrived(error: Unreachable) -> bool:
    return isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout)


def _checked(answer: httpx2.Response) -> httpx2.Response:
    if answer.is_error:
        raise service_error(answer)
    return answer
