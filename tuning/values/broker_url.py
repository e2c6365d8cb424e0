"""The address of the broker that carries wake-ups: what it may look like, and what it means."""

from urllib.parse import parse_qs, urlsplit

_SUPPORTED = "redis://host:6379/0, rediss://host:6379/0 for TLS, or redis+socket:///path"
_SCHEMES = {"redis", "rediss", "redis+socket"}
_CERTIFICATES = "ssl_cert_reqs"


def broker_url(url: str) -> str:
    """The address as kombu is to be given it: one with TLS has the certificate checked unless it says otherwise.

    Raises:
        ValueError: it is of a kind that is not supported. The message has no part of the address but its scheme.
    """
    scheme = url.partition("://")[0]
    if scheme.rpartition("+")[2] == "sentinel":
        raise ValueError(
            f"Sentinel ({scheme}://) is not supported. Write {_SUPPORTED}; a proxy that follows Sentinel's master has "
            "such an address. Without a broker workers ask over HTTP, so nothing depends on one"
        )
    if "://" not in url or scheme not in _SCHEMES:
        raise ValueError(f"it must be {_SUPPORTED}")
    if ";" in url:
        raise ValueError(f"it names several brokers, and one is used: {_SUPPORTED}")
    parts = urlsplit(url)
    _require_port(parts.netloc.rpartition("@")[2])
    if scheme == "rediss" and _CERTIFICATES not in parse_qs(parts.query):
        return parts._replace(query="&".join(filter(None, (parts.query, f"{_CERTIFICATES}=required")))).geturl()
    return url


def _require_port(address: str) -> None:
    port = address.rpartition(":")[2] if ":" in address.rpartition("]")[2] else ""
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(
            "its port is no number from 1 to 65535; write special characters of a password as %40 and so on"
        )
