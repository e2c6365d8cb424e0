"""The address of the API, before anything is started on it."""

import contextlib
import socket

import pytest

from tunesmith.local.embedded.errors import PortTaken
from tunesmith.local.up.address import AddressUnusable, allowed_hosts, free_port, free_ports, is_loopback, local_url


def test_a_taken_port_names_a_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} on 127.0.0.1 is taken") as caught:
            free_port("127.0.0.1", port)
    assert "--port" in (caught.value.hint or "")


def test_port_zero_takes_any_free_one() -> None:
    assert free_port("127.0.0.1", 0) > 0


def test_workers_get_the_port_behind_the_public_one_unless_it_is_taken() -> None:
    public = _first_of_two_free_ports()
    assert free_ports("127.0.0.1", public=public, workers=None).workers == public + 1
    with socket.socket() as other:
        other.bind(("127.0.0.1", public + 1))
        other.listen()
        assert free_ports("127.0.0.1", public=public, workers=None).workers not in {public, public + 1}
        with pytest.raises(PortTaken):
            free_ports("127.0.0.1", public=public, workers=public + 1)


def test_names_are_checked_only_where_no_other_machine_and_no_proxy_can_come_from() -> None:
    assert allowed_hosts("127.0.0.1").split(",") == ["localhost", "127.0.0.1", "::1", "127.0.0.1"]
    assert allowed_hosts("0.0.0.0") == "*"  # noqa: S104


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressUnusable, match="cannot be bound"):
        free_port(host, 0)


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
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", first.getsockname()[1] + 1))
            return int(first.getsockname()[1])
