"""Which addresses may be connected to. A URL is a user's word: it must not reach what only this machine can reach."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx2

from tunesmith.tuning.api.requests.webhooks import LONGEST_URL
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

_PORTS = {"http": 80, "https": 443}
_HIGHEST_PORT = 65_535
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # what else there is leads elsewhere: mapped, translated, local
_ASK_AT_ONCE = 64  # a server of names that hangs holds a thread
_CHECK_SECONDS = 5.0
_resolvers = ThreadPoolExecutor(max_workers=_ASK_AT_ONCE, thread_name_prefix="webhook-names")


class AddressRefused(InvalidRequest):
    """The URL leads to an address that webhooks may not be sent to."""

    code = ErrorCode.WEBHOOK_ADDRESS_REFUSED


async def resolve(host: str, port: int) -> Sequence[Address]:
    """The addresses of a host.

    Raises:
        OSError: the name has none.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(_resolvers, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except UnicodeError:
        raise OSError(f"{host!r:.80} is no name of a host") from None
    return [ip_address(entry[4][0]) for entry in found]


@dataclass(frozen=True)
class Guard:
    """Lets connections through to public addresses, and to the networks that the operator allows."""

    allowed: Sequence[Network] = ()
    resolve: Resolve = resolve

    async def addresses(self, host: str, port: int) -> Sequence[Address]:
        """Where to connect to for this host: what is checked here is what is connected to, nobody asks again.

        Raises:
            OSError: the name has no address.
            AddressRefused: one of its addresses is not allowed.
        """
        found = await self.resolve(host, port)
        for address in found:
            if not self._may_reach(address):
                message = f"{host} is {address}, which is no public address."
                if host == str(address):
                    message = f"{host} is no public address."
                hint = "The operator can allow networks with TUNESMITH_WEBHOOK_NETWORKS."
                raise AddressRefused(message, param="url", hint=hint)
        return found

    async def check(self, url: str) -> None:
        """Refuse early what could not be sent to later. A name that is not known at the moment may be later.

        Raises:
            InvalidRequest: the URL is none for webhooks.
            AddressRefused: it leads to an address that is not allowed.
        """
        parsed = parse_url(url)
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self.addresses(parsed.host, port_of(parsed))
        except OSError:  # or no answer in time
            return

    def _may_reach(self, address: Address) -> bool:
        plain = _plain(address)
        if any(plain in network for network in self.allowed if network.version == plain.version):
            return True
        return _is_public(plain)


def parse_url(url: str) -> httpx2.URL:
    """The parts of a webhook's URL.

    Raises:
        InvalidRequest: it is not http or https, has no host, or carries a user, a password or a fragment.
    """
    if len(url) > LONGEST_URL or not url.isprintable() or " " in url:
        raise _bad_url(f"A URL has at most {LONGEST_URL} characters and no spaces.")
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        raise _bad_url("This cannot be read as a URL.") from None
    if parsed.scheme not in _PORTS or not parsed.host:
        raise _bad_url("A webhook's URL begins with https:// or http:// and a host.")
    if not 0 < port_of(parsed) <= _HIGHEST_PORT:
        raise _bad_url(f"A port is a number up to {_HIGHEST_PORT}.")
    if parsed.userinfo:
        raise _bad_url("A webhook's URL carries no user and no password: they would be in logs.")
    if parsed.fragment:
        raise _bad_url("A webhook's URL has no '#' part, which no server sees.")
    return parsed


def port_of(url: httpx2.URL) -> int:
    """The port, given or usual."""
    return url.port or _PORTS[url.scheme]


def _bad_url(message: str) -> InvalidRequest:
    hint = "Send it as https://host/path; what the receiver checks is the signature."
    return InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="url", hint=hint)


def _plain(address: Address) -> Address:
    """An IPv4 address that is written as IPv6 is an IPv4 address."""
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_public(address: Address) -> bool:
    if not address.is_global or address.is_multicast:
        return False
    if isinstance(address, IPv4Address):
        return not address.is_reserved
    if address not in _GLOBAL_UNICAST:
        return False
    carried = [address.sixtofour, *(address.teredo or ())]
    return all(_is_public(inner) for inner in carried if inner is not None)
