"""What a webhook may connect to, and when it is sent again."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.service.settings import Settings
from tunesmith.service.webhooks.guard import Address, AddressRefused, Guard
from tunesmith.service.webhooks.retries import Retry
from tunesmith.service.webhooks.sending import Sender, new_signing_secret

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
EVENT = {"id": "evt-1", "object": "event", "created_at": 1, "type": "fine_tuning.job.succeeded", "data": {"id": "j"}}
SECRET = new_signing_secret(lambda count: b"k" * count)


class Names:
    """A server of names whose answers follow one another; the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, _host: str, _port: int) -> Sequence[Address]:
        self.asked += 1
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [ip_address(address) for address in found]


def addresses(guard: Guard) -> Sequence[Address]:
    return asyncio.run(guard.addresses("hooks.example", 443))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1", "2002:7f00:1::", "2001:db8::1", "::7f00:1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="no public address"):
        addresses(Guard(resolve=Names([address])))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_a_public_address_is_taken(address: str) -> None:
    assert addresses(Guard(resolve=Names([address]))) == [ip_address(address)]


def test_what_is_no_name_has_no_address() -> None:
    with pytest.raises(OSError, match="is no name of a host"):
        asyncio.run(Guard().addresses("x" * 64, 443))


def test_one_bad_address_among_good_ones_is_enough_to_refuse() -> None:
    with pytest.raises(AddressRefused):
        addresses(Guard(resolve=Names(["1.1.1.1", "10.0.0.1"])))


def test_the_operator_can_allow_a_network() -> None:
    text = {"database_url": "postgresql://x/y", "store": "file:///s", "webhook_networks": "10.0.0.0/8, fd00::/8"}
    allowed = Settings(**text).webhook_networks  # type: ignore[arg-type]
    assert allowed == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    guard = Guard(allowed=allowed, resolve=Names(["10.0.0.1"]))
    assert addresses(guard) == [ip_address("10.0.0.1")]
    with pytest.raises(AddressRefused):
        addresses(Guard(allowed=allowed, resolve=Names(["192.168.0.1"])))


def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    """Names that change between a check and a connection help nobody: nothing asks for them twice."""
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        sender = Sender(Guard(allowed=[ip_network("127.0.0.1/32")], resolve=names), timeout_seconds=5)
        first = await sender.send(f"http://hooks.example:{port}/x", EVENT, secrets=[SECRET], at=NOON)
        assert (first.status_code, names.asked) == (200, 1)
        second = await sender.send(f"http://hooks.example:{port}/x", EVENT, secrets=[SECRET], at=NOON)
        assert (second.status_code, second.error) == (None, "hooks.example is 127.0.0.2, which is no public address.")
        server.close()

    asyncio.run(run())
    assert len(heard) == 1
    assert f"Host: hooks.example:{heard[0].decode().split('hooks.example:')[1].split()[0]}" in heard[0].decode()


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    outcome = asyncio.run(
        Sender(Guard(resolve=Names(["127.0.0.1"])), timeout_seconds=5).send(
            "http://hooks.example/", EVENT, secrets=[SECRET], at=NOON
        )
    )
    assert outcome.error is not None
    assert "no public address" in outcome.error


@given(tries=st.integers(1, 9), jitter=st.floats(0, 1))
def test_pauses_are_spread_and_grow(tries: int, jitter: float) -> None:
    pause, middle = Retry.after(tries, jitter=jitter).pause, Retry.after(tries, jitter=0.5).pause
    assert pause is not None
    assert middle is not None
    assert 0.79 * middle <= pause <= 1.21 * middle
    following = Retry.after(tries + 1, jitter=0.5).pause
    assert following is None or following > middle


def test_retries_go_on_for_more_than_a_day_and_end() -> None:
    pauses = [Retry.after(tries, jitter=0.5).pause for tries in range(1, 12)]
    assert pauses[-1] is None
    assert timedelta(days=3) < sum((pause for pause in pauses if pause), timedelta()) < timedelta(days=4)
