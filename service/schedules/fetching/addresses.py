"""From where data may be fetched: addresses by the operator's list, and machines by what their names resolve to."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

from tunesmith.service.settings import Settings
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

_HTTPS_PORT = 443
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class AllowedAddresses:
    """The operator's list: beginnings of https addresses, and names of hosts that may be private ones."""

    prefixes: Sequence[str]
    private_hosts: Sequence[str]

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the service was told."""
        return cls(settings.dataset_urls, settings.private_dataset_hosts)

    def check(self, url: str, *, param: str | None = None) -> str:
        """Return the address as it is asked for.

        Raises:
            InvalidRequest: it is not on the list.
        """
        asked = _split(url)
        if asked is None or not any(_begins(asked, prefix) for prefix in self.prefixes):
            raise InvalidRequest(
                f"Data may not be fetched from {url!r:.200}.",
                code=ErrorCode.URL_NOT_ALLOWED,
                param=param,
                hint="It must begin like an https address in the operator's TUNESMITH_DATASET_URLS.",
            )
        return asked._replace(fragment="").geturl()

    def check_machine(self, host: str, address: str) -> None:
        """Refuse to connect to this machine under this name.

        Raises:
            InvalidRequest: it is none of the public internet, and the name is not allowed to be such.
        """
        machine = _real(ipaddress.ip_address(address))
        is_never_right = machine.is_link_local or machine.is_multicast or machine.is_unspecified
        may_be_private = host.lower() in self.private_hosts
        if is_never_right or not (machine.is_global or may_be_private):
            raise InvalidRequest(
                f"{host} is {address}, which is no address of the public internet.",
                code=ErrorCode.URL_NOT_ALLOWED,
                param="data.url",
                hint="If that is meant, let the operator add the host to TUNESMITH_PRIVATE_DATASET_HOSTS.",
            )


def _split(url: str) -> SplitResult | None:
    """The parts of an https address in which nothing is hidden."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    is_plain = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    climbs = ".." in unquote(parts.path).split("/")
    is_https = parts.scheme == "https" and parts.hostname and parts.username is None and parts.password is None
    return parts if is_plain and is_https and not climbs else None


def _begins(asked: SplitResult, prefix: str) -> bool:
    allowed = _split(prefix)
    if allowed is None or _place(allowed) != _place(asked):
        return False
    folder = allowed.path.rstrip("/")
    return asked.path == folder or asked.path.startswith(f"{folder}/")


def _place(parts: SplitResult) -> tuple[str | None, int]:
    return parts.hostname, parts.port or _HTTPS_PORT


def _real(address: Address) -> Address:
    """The IPv4 address inside one of IPv6 that only stands for it."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
