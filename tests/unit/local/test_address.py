"""The address of the API, before anything is started on it."""

import contextlib
import socket
import subprocess
import sys

import pytest

from tests.ports import free_port
from tunesmith.local.embedded.errors import PortTaken
from tunesmith.local.embedded.identity import user_namespaces_work
from tunesmith.local.up import address
from tunesmith.local.up.address import AddressUnusable, allowed_hosts, free_ports, is_loopback, local_url


def test_a_taken_port_names_a_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} on 127.0.0.1 is taken") as caught:
            address.free_port("127.0.0.1", port)
    assert "--port" in (caught.value.hint or "")


def test_port_zero_takes_any_free_one() -> None:
    assert address.free_port("127.0.0.1", 0) > 0


def test_workers_get_the_port_behind_the_public_one_unless_it_is_taken() -> None:
    public = _first_of_two_free_ports()
    assert free_ports("127.0.0.1", public=public, workers=None).workers == public + 1
    with socket.socket() as other:
        other.bind(("127.0.0.1", public + 1))
        other.listen()
        assert free_ports("127.0.0.1", public=public, workers=None).workers not in {public, public + 1}
        with pytest.raises(PortTaken):
            free_ports("127.0.0.1", public=public, workers=public + 1)


@pytest.mark.skipif(not user_namespaces_work(), reason="a range of two ports of our own needs user namespaces")
def test_both_ports_are_never_the_same_one() -> None:
    ask = (
        "from tunesmith.local.up.address import free_ports\n"
        "for workers in (None, 0):\n"
        "    for _ in range(20):\n"
        "        found = free_ports('127.0.0.1', public=0, workers=workers)\n"
        "        assert {found.public, found.workers} == {40000, 40001}, found\n"
    )
    narrow = 'echo 40000 40001 > /proc/sys/net/ipv4/ip_local_port_range && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", narrow, "sh", sys.executable, "-c", ask]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_names_are_checked_only_where_no_other_machine_and_no_proxy_can_come_from() -> None:
    assert allowed_hosts("127.0.0.1").split(",") == ["localhost", "127.0.0.1", "::1", "127.0.0.1"]
    assert allowed_hosts("0.0.0.0") == "*"  # noqa: S104


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressUnusable, match="cannot be bound"):
        address.free_port(host, 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8100"),
        ("0.0.0.0", "http://127.0.0.1:8100"),  # noqa: S104
        ("::", "http://[::1]:8100"),
        ("gpu-box", "http://gpu-box:8100"),
    ],
)
def test_a_program_on_this_machine_knows_where_to_connect(host: str, url: str) -> None:
    assert local_url(host, 8100) == url


def test_only_loopback_is_private() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")  # noqa: S104


def _first_of_two_free_ports() -> int:
    while True:
        first = free_port()
        with socket.socket() as second, contextlib.suppress(OSError):
            second.bind(("127.0.0.1", first + 1))
            return first
