"""The address that the API will answer on, checked before anything is started."""

import errno
import socket
from dataclasses import dataclass

from tunesmith.local.embedded.errors import EmbeddedError, PortTaken
from tunesmith.tuning.codes import ErrorCode

DEFAULT_PORT = 8100


class AddressUnusable(EmbeddedError):
    """The host or port cannot be bound here at all."""

    code = ErrorCode.ADDRESS_UNUSABLE


_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - a table of what to connect to instead
_LOOPBACK = ("127.", "::1", "localhost")
_SUGGESTIONS = 20
_DOCUMENTATION_ADDRESS = ("192.0.2.1", 9)  # of RFC 5737: nobody has it


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the API answers: people and programs at one port, workers at the other."""

    public: int
    workers: int


def free_ports(host: str, *, public: int, workers: int | None) -> Ports:
    """Both ports, 0 for any free one. Workers get the one behind the public port unless another is asked for.

    Raises PortTaken with a free alternative, or AddressUnusable.
    """
    with _held(host, public) as probe:  # until the other is found, which could else be the same
        chosen = _port_of(probe)
        if workers is not None:
            return Ports(public=chosen, workers=free_port(host, workers))
        try:
            return Ports(public=chosen, workers=free_port(host, chosen + 1 if public else 0))
        except EmbeddedError:
            return Ports(public=chosen, workers=free_port(host, 0))


def allowed_hosts(host: str) -> str:
    """The names that requests may give, for `TUNESMITH_ALLOWED_HOSTS`.

    A page in a browser on this machine can send requests to loopback under a name of its own; an address that other
    machines reach may have any name, a proxy's among them.
    """
    return f"localhost,127.0.0.1,::1,{host}" if is_loopback(host) else "*"


def free_port(host: str, port: int) -> int:
    """`port` when it can be bound on `host`, any free one for 0.

    Raises PortTaken with a free alternative, or AddressUnusable.
    """
    with _held(host, port) as probe:
        return _port_of(probe)


def local_url(host: str, port: int) -> str:
    """How a program on this machine reaches an API bound to `host`."""
    reachable = _ANY.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def shared_url(host: str, port: int) -> str:
    """How another machine reaches an API bound to `host`; the same as here when only this one can."""
    if host not in _ANY:
        return local_url(host, port)
    address = _own_address()
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect."""
    return host.startswith(_LOOPBACK)


def _own_address() -> str:
    """The address by which this machine would speak to the world; its name where it has no way there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_DOCUMENTATION_ADDRESS)  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _held(host: str, port: int) -> socket.socket:
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(host, port) from error
        raise _unusable(host, port, error) from error


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
    probe = socket.socket(family, kind, protocol)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT is no obstacle
        probe.bind(address)
    except OSError:
        probe.close()
        raise
    return probe


def _port_of(probe: socket.socket) -> int:
    return int(probe.getsockname()[1])


def _taken(host: str, port: int) -> PortTaken:
    for other in range(port + 1, min(port + _SUGGESTIONS, 65536)):
        try:
            _bound(host, other).close()
        except OSError:
            continue
        return PortTaken(
            f"Port {port} on {host} is taken by another program.",
            hint=f"use --port {other}, which is free, or --port 0 for any free port",
        )
    return PortTaken(f"Port {port} on {host} is taken by another program.", hint="use --port 0 for any free port")


def _unusable(host: str, port: int, error: OSError) -> AddressUnusable:
    if error.errno == errno.EACCES:
        return AddressUnusable(f"Port {port} needs root.", hint="use a --port above 1023")
    return AddressUnusable(
        f"{host}:{port} cannot be bound: {error.strerror}.", hint="use --host 127.0.0.1, or an address of this machine"
    )
