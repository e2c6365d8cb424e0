"""A broker is a convenience: what it holds wakes, what it refuses ends nothing, and its absence is told, not cried."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection
from structlog.testing import capture_logs

from tunesmith.worker.daemon.broker import BrokerThread

QUEUE = "wake.of-this-test"
# What ends kombu's own consumer: words that are no JSON, JSON that is no message, bytes that are no text.
GARBAGE = (
    b"garbage",
    b"[]",
    b"{}",
    b'{"body": "x"}',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"body": 5, "headers": 5, "properties": 5}',
)


class Told:
    """What the thread did, at a time that passes while it sleeps."""

    def __init__(self) -> None:
        self.wakes = 0
        self.free = 1
        self.pauses: list[float] = []
        self.now = 0.0
        self.threads: list[BrokerThread] = []

    def wake(self) -> None:
        self.wakes += 1

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def thread(self, url: str) -> BrokerThread:
        thread = BrokerThread(
            url,
            queue=QUEUE,
            free_slots=lambda: self.free,
            wake=self.wake,
            clock=lambda: self.now,
            sleep=self.sleep,
            jitter=lambda: 1.0,
        )
        self.threads.append(thread)
        return thread


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    yield told
    for thread in told.threads:
        thread._let_go()


@pytest.fixture
def valkey(redis_url: str) -> Iterator[Any]:
    with Connection(redis_url) as connection:
        client = connection.default_channel.client
        client.delete(QUEUE)
        yield client
        client.delete(QUEUE)


def times(count: int, do: Callable[[], None]) -> None:
    for _ in range(count):
        do()


def test_whatever_lies_in_the_queue_wakes_once_and_the_first_contact_wakes_every_free_slot(
    redis_url: str, valkey: Any, told: Told
) -> None:
    valkey.rpush(QUEUE, *GARBAGE)
    thread = told.thread(redis_url)
    times(len(GARBAGE), thread.listen_once)
    assert told.wakes == len(GARBAGE) + told.free
    assert valkey.llen(QUEUE) == 0
    assert not thread.is_away.is_set()


def test_while_every_slot_is_busy_wake_ups_stay_for_other_workers(redis_url: str, valkey: Any, told: Told) -> None:
    valkey.rpush(QUEUE, *GARBAGE)
    told.free = 0
    told.thread(redis_url).listen_once()
    assert valkey.llen(QUEUE) == len(GARBAGE)
    assert told.pauses


def test_a_broker_that_refuses_is_asked_after_growing_pauses_and_told_of_at_its_beginning_and_its_end(
    redis_url: str, valkey: Any, told: Told
) -> None:
    thread = told.thread(redis_url)
    thread.listen_once()
    valkey.set(QUEUE, "no list")
    with capture_logs() as said:
        times(10, thread.listen_once)
        assert thread.is_away.is_set()
        assert [line["event"] for line in said] == ["broker.away"]
        assert told.pauses == [0.5, 1.0, 2.0, 4.0, *[5.0] * 6]
        valkey.delete(QUEUE)
        wakes = told.wakes
        thread.listen_once()
        assert [line["event"] for line in said] == ["broker.away", "broker.back"]
    assert said[1]["away_seconds"] == sum(told.pauses)
    assert not thread.is_away.is_set()
    assert told.wakes == wakes + told.free


@pytest.mark.parametrize("unforeseen", [RuntimeError("no thread"), TypeError("no reply"), OSError("no descriptor")])
def test_whatever_goes_wrong_the_thread_goes_on_and_wake_ups_come_over_http_meanwhile(
    redis_url: str, valkey: Any, told: Told, monkeypatch: pytest.MonkeyPatch, unforeseen: Exception
) -> None:
    thread = told.thread(redis_url)
    thread.listen_once()

    def fail() -> int:
        raise unforeseen

    with monkeypatch.context() as patch:
        patch.setattr(thread, "_free_slots", fail)
        thread.listen_once()
    assert thread.is_away.is_set()
    valkey.rpush(QUEUE, b"{}")
    wakes = told.wakes
    times(2, thread.listen_once)
    assert not thread.is_away.is_set()
    assert told.wakes > wakes


def test_a_broker_that_cannot_be_reached_is_asked_a_dozen_times_a_minute_and_told_of_every_ten_minutes(
    told: Told,
) -> None:
    thread = told.thread("redis://127.0.0.1:9/0")
    with capture_logs() as said:
        times(250, thread.listen_once)
    assert 1200 < told.now < 1260
    assert [line["event"] for line in said] == ["broker.away", "broker.still_away", "broker.still_away"]
    assert "refused" in said[0]["error"]
    assert told.wakes == 0
