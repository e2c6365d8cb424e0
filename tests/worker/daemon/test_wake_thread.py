"""A worker without a broker asks the service for wake-ups: only with a slot free, and patiently when it is away."""

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.waiting import eventually
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.worker.daemon.wake_thread import WakeThread
from tunesmith.worker.transport.control import HttpControlPlane

CLASS = "cpu-2-cores-16gib"


class Told:
    """What the thread did."""

    def __init__(self) -> None:
        self.wakes = 0
        self.pauses: list[float] = []
        self.free = 2

    def wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def asks(service: ScriptedService, told: Told) -> Iterator[Callable[[], None]]:
    control = HttpControlPlane(url=service.url, worker_key="ts-worker", outage_patience_seconds=1)
    thread = WakeThread(
        control, worker_class=CLASS, free_slots=lambda: told.free, wake=told.wake, sleep=told.pauses.append
    )
    yield thread.ask_once
    control.close()


def answer(seen: int, wakes: int) -> Reply:
    return Reply.json({"seen": seen, "wakes": wakes})


def test_the_first_answer_wakes_every_free_slot_and_later_ones_as_many_as_they_say(
    service: ScriptedService, told: Told, asks: Callable[[], None]
) -> None:
    service.otherwise = lambda request: answer(8, 9) if "seen=7" in request.path else answer(8, 0)
    service.script("wait=25.0", answer(7, 1))
    wakes = []
    for _ in range(3):
        asks()
        wakes.append(told.wakes)
    assert wakes == [2, 4, 4]
    assert [request.path.rpartition("seen=")[2] for request in service.requests[1:]] == ["7", "8"]
    assert f"worker_class={CLASS}" in service.requests[0].path


def test_while_every_slot_is_busy_nothing_is_asked(
    service: ScriptedService, told: Told, asks: Callable[[], None]
) -> None:
    told.free = 0
    asks()
    assert service.requests == []
    assert told.pauses


def test_a_service_that_is_away_or_refuses_is_asked_again_after_growing_pauses(
    service: ScriptedService, told: Told, asks: Callable[[], None]
) -> None:
    replies = [Reply.error(503, "service_unavailable"), Reply.error(401, "invalid_api_key"), *[Reply(500)] * 8]
    service.otherwise = lambda _request: replies.pop(0) if replies else answer(1, 1)
    for _ in range(10):
        asks()
    assert told.pauses == sorted(told.pauses)
    assert (told.pauses[0], told.pauses[-1]) == (0.5, 30.0)
    assert told.wakes == 0
    asks()
    assert told.wakes == 2


@pytest.mark.parametrize("unforeseen", [RuntimeError("no thread"), TypeError("no number"), OSError("no descriptor")])
def test_whatever_goes_wrong_the_thread_pauses_and_asks_again(
    service: ScriptedService, told: Told, unforeseen: Exception
) -> None:
    service.otherwise = lambda _request: answer(1, 1)
    failing = [unforeseen]

    def free_slots() -> int:
        if failing:
            raise failing.pop()
        return told.free

    def wake() -> None:
        told.wake()
        if told.wakes == 1:
            raise unforeseen

    control = HttpControlPlane(url=service.url, worker_key="ts-worker", outage_patience_seconds=1)
    thread = WakeThread(control, worker_class=CLASS, free_slots=free_slots, wake=wake, sleep=told.pauses.append)
    for _ in range(3):
        thread.ask_once()
    control.close()
    assert told.pauses == [0.5, 1.0]
    assert told.wakes == 1 + told.free


def test_an_answer_that_cannot_be_read_is_asked_for_again(
    service: ScriptedService, told: Told, asks: Callable[[], None]
) -> None:
    service.script("wait=25.0", Reply.json({"seen": "many"}), Reply(200, b"<html>"))
    service.otherwise = lambda _request: answer(1, 1)
    for _ in range(3):
        asks()
    assert told.pauses == [0.5, 1.0]
    assert told.wakes == told.free


def test_it_asks_while_it_is_wanted_and_not_before(service: ScriptedService, told: Told) -> None:
    control = HttpControlPlane(url=service.url, worker_key="ts-worker", outage_patience_seconds=1)
    service.otherwise = lambda _request: answer(1, 1)
    wanted = threading.Event()
    WakeThread(control, worker_class=CLASS, free_slots=lambda: told.free, wake=told.wake, wanted=wanted).start()
    assert service.requests == []
    wanted.set()
    eventually(lambda: told.wakes >= 2, what="a wake-up")
    wanted.clear()
    told.free = 0
