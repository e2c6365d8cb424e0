"""Ports for servers that are told theirs before they start."""

import contextlib
import secrets
import socket
from pathlib import Path

_LOWEST, _BEYOND = 10_000, 65_536
_GIVEN_TO_ANYBODY = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port of the loopback that nobody has, and that the kernel gives to nobody until its server has it.

    Whoever binds port 0 gets one of the kernel's own range, where a port that was free a moment ago may be taken
    before a server that imports for seconds binds it.
    """
    first, last = map(int, _GIVEN_TO_ANYBODY.read_text().split())
    kept = [port for port in range(_LOWEST, _BEYOND) if not first <= port <= last]
    while True:
        port = secrets.choice(kept or range(_LOWEST, _BEYOND))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
