"""Fetching a file from an address: nothing but what is allowed is connected to, and size and time are bounded."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import urljoin

import httpcore2

from tunesmith.service.schedules.failures import DownloadFailed
from tunesmith.service.schedules.fetching.addresses import AllowedAddresses
from tunesmith.tuning.errors import TooLarge

_MOST_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_MAY_PASS = (408, 425, 429)
_PAUSES = {"timeout": {"connect": 10.0, "read": 30.0, "write": 10.0, "pool": 10.0}}
_HEADERS = (("accept", "*/*"), ("accept-encoding", "identity"), ("user-agent", "tunesmith"))
Resolve = Callable[[str, int], Awaitable[Iterable[str]]]


async def addresses_of(host: str, port: int) -> Iterable[str]:
    """What the name resolves to at this moment."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return dict.fromkeys(str(entry[4][0]) for entry in found)


@dataclass(frozen=True)
class Downloads:
    """How files are fetched here."""

    allowed: AllowedAddresses
    limit_bytes: int
    limit_seconds: float
    resolve: Resolve = addresses_of
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    async def fetch(self, url: str, into: BinaryIO) -> None:
        """Write what the address holds into the file.

        Raises:
            InvalidRequest: the address, one that it leads to, or the machine behind it is not allowed.
            TooLarge: there are more bytes than the limit.
            DownloadFailed: nothing usable came in time.
        """
        backend = _Guarded(self.allowed, self.resolve)
        try:
            async with asyncio.timeout(self.limit_seconds):
                async with httpcore2.AsyncConnectionPool(ssl_context=self.trust, network_backend=backend) as pool:
                    await self._follow(pool, url, into)
        except TimeoutError:
            raise DownloadFailed(f"{url} took longer than {self.limit_seconds:.0f} s.", may_pass=True) from None
        except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            what = str(error) or type(error).__name__
            raise DownloadFailed(f"{url} could not be read: {what:.200}.", may_pass=True) from error

    async def _follow(self, pool: httpcore2.AsyncConnectionPool, url: str, into: BinaryIO) -> None:
        for _ in range(_MOST_REDIRECTS + 1):
            url = self.allowed.check(url, param="data.url")
            async with _asked(pool, url) as answer:
                leads_to = _redirect(answer, url)
                if leads_to is None:
                    await self._write(answer, into, url=url)
            if leads_to is None:
                await _confirm(pool, url, version=_version(answer))
                return
            url = leads_to
        raise DownloadFailed(f"{url} is behind more than {_MOST_REDIRECTS} redirects.", may_pass=False)

    async def _write(self, answer: httpcore2.Response, into: BinaryIO, *, url: str) -> None:
        _check_answer(answer, url)
        length_bytes = 0
        async for chunk in answer.aiter_stream():
            length_bytes += len(chunk)
            if length_bytes > self.limit_bytes:
                message = f"{url} holds more than {self.limit_bytes:,} bytes."
                raise TooLarge(message, param="data.url", hint="Split it, or let the operator raise the limit.")
            into.write(chunk)


class _Guarded(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were checked, not to a name that may resolve to another one a moment later."""

    def __init__(self, allowed: AllowedAddresses, resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's own signature
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to one of the addresses that the name has now, all of which are allowed."""
        addresses = list(await self._resolve(host, port))
        for address in addresses:
            self._allowed.check_machine(host, address)
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """As the network's."""
        await self._network.sleep(seconds)


@asynccontextmanager
async def _asked(pool: httpcore2.AsyncConnectionPool, url: str, **conditions: str) -> AsyncIterator[httpcore2.Response]:
    headers = [*_HEADERS, *((name.replace("_", "-"), value) for name, value in conditions.items())]
    async with pool.stream("GET", url, headers=headers, extensions=_PAUSES) as answer:
        yield answer


async def _confirm(pool: httpcore2.AsyncConnectionPool, url: str, *, version: dict[str, str]) -> None:
    """Make sure that the address still holds what was read: half of one file and half of the next would be neither.

    A server that names no version of its files cannot be asked.
    """
    if not version:
        return
    known = {"if_none_match": version["etag"]} if "etag" in version else {"if_modified_since": version["last-modified"]}
    async with _asked(pool, url, **known) as answer:
        if answer.status != 304 and (answer.status != 200 or _version(answer) != version):
            raise DownloadFailed(f"{url} changed while it was read.", may_pass=True)


def _version(answer: httpcore2.Response) -> dict[str, str]:
    found = {name: _header(answer, name.encode()) for name in ("etag", "last-modified")}
    return {name: value for name, value in found.items() if value is not None}


def _redirect(answer: httpcore2.Response, url: str) -> str | None:
    if answer.status not in _REDIRECTS:
        return None
    return urljoin(url, _header(answer, b"location") or "")


def _check_answer(answer: httpcore2.Response, url: str) -> None:
    if answer.status != 200:
        may_pass = answer.status >= 500 or answer.status in _MAY_PASS
        raise DownloadFailed(f"{url} answered {answer.status}.", may_pass=may_pass)
    encoding = _header(answer, b"content-encoding") or "identity"
    if encoding != "identity":
        raise DownloadFailed(f"{url} sends its content encoded as {encoding:.20}.", may_pass=False)


def _header(answer: httpcore2.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in answer.headers if key.lower() == name), None)
