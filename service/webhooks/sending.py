"""Sending one event to one URL: signed, to a checked address, without following anywhere, within bounds."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from ssl import SSLContext
from typing import Any

import httpcore2
import httpx2
from standardwebhooks import Webhook

from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.settings import Settings
from tunesmith.service.webhooks.guard import AddressRefused, Guard, parse_url, port_of
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.values.json_objects import Json

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with
_SECRET_BYTES = 32
_KEPT_BYTES = 512  # of an answer
_BODY_SECONDS = 2.0  # for the beginning of a body, when the status is known


@dataclass(frozen=True)
class Outcome:
    """What came of one try."""

    status_code: int | None
    error: str | None
    answer: str | None
    seconds: float

    @property
    def is_success(self) -> bool:
        """Whether the event has arrived."""
        return self.error is None


def new_signing_secret(random_bytes: Callable[[int], bytes]) -> str:
    """A secret in the form of Standard Webhooks."""
    return SECRET_PREFIX + base64.b64encode(random_bytes(_SECRET_BYTES)).decode()


class Sender:
    """Posts events. One connection for each, so that none is to an address that was checked for another."""

    def __init__(self, guard: Guard, *, timeout_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.guard = guard
        self.timeout_seconds = timeout_seconds
        self._clock = clock

    @classmethod
    def of(cls, settings: Settings) -> "Sender":
        """One that connects to what the operator allows."""
        return cls(Guard(allowed=settings.webhook_networks), timeout_seconds=settings.webhook_timeout_seconds)

    async def send(self, url: str, event: Json, *, secrets: Sequence[str], at: datetime) -> Outcome:
        """Post the event, signed with every secret. Whatever goes wrong is an outcome."""
        started_at = self._clock()
        body = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        status: int | None = None
        answer: str | None = None
        try:
            status, answer = await self._post(url, body, headers=_headers(event["id"], body, secrets, at))
            error = _complaint(status)
        except TimeoutError:
            error = f"No answer within {self.timeout_seconds:g} s."
        except (AddressRefused, InvalidRequest) as refused:
            error = refused.message
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as failed:
            error = f"{type(failed).__name__}: {failed}".rstrip(": ")
        return Outcome(status, storable(error), storable(answer), round(self._clock() - started_at, 3))

    async def _post(self, url: str, body: str, *, headers: list[tuple[str, str]]) -> tuple[int, str]:
        parsed = parse_url(url)
        target = httpcore2.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
        async with (
            asyncio.timeout(self.timeout_seconds) as limit,
            httpcore2.AsyncConnectionPool(
                ssl_context=_tls(), network_backend=_GuardedNetwork(self.guard), max_connections=1
            ) as pool,
            pool.stream("POST", target, headers=[("Host", _host(parsed)), *headers], content=body.encode()) as response,
        ):
            limit.reschedule(asyncio.get_running_loop().time() + 2 * _BODY_SECONDS)
            return response.status, await _beginning(response)


class _GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses that the guard has checked, and to no other."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's name
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that takes the connection."""
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in await self._guard.addresses(host, port):
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
            except httpcore2.ConnectError as error:
                failure = error
        raise failure


async def _beginning(response: httpcore2.Response) -> str:
    """The first bytes of the body as text; the rest is never read."""
    kept = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in response.aiter_stream():
                kept += piece[: _KEPT_BYTES - len(kept)]
                if len(kept) >= _KEPT_BYTES:
                    break
    except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        pass  # the status has said what matters
    return kept.decode("utf-8", errors="replace")


def _headers(event_id: str, body: str, secrets: Sequence[str], at: datetime) -> list[tuple[str, str]]:
    moment = at.astimezone(UTC)
    signatures = [Webhook(secret).sign(event_id, moment, body) for secret in secrets]
    return [
        ("Content-Type", "application/json"),
        ("User-Agent", "Tunesmith-Webhooks"),
        ("webhook-id", event_id),
        ("webhook-timestamp", str(int(moment.timestamp()))),
        ("webhook-signature", " ".join(signatures)),
    ]


def _host(url: httpx2.URL) -> str:
    host = url.raw_host.decode()
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None else f"{host}:{port_of(url)}"


def _complaint(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"Answered {status}; redirects are not followed."
    return f"Answered {status}."


@cache
def _tls() -> SSLContext:
    return httpx2.create_ssl_context()
