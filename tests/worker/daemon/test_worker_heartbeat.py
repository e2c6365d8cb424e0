"""A worker shows that it lives for as long as it does, whatever goes wrong in between."""

import threading
from collections.abc import Iterator

import pytest

from tests.waiting import eventually
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.messages import WorkerHeartbeat
from tunesmith.worker.daemon.worker_heartbeat import WorkerHeartbeatThread
from tunesmith.worker.transport.control import HttpControlPlane

HARDWARE = HardwareProfile(cpu=Cpu(model="a processor", cores=2, memory_total_bytes=2**34, memory_free_bytes=2**33))
BEAT = WorkerHeartbeat(incarnation="first", hardware=HARDWARE, busy_slots=0, draining=False)


class Told:
    """What the thread asked for, and what it is to meet."""

    def __init__(self) -> None:
        self.at_beats: list[Exception] = []
        self.at_registrations: list[Exception] = []
        self.answered = threading.Event()

    def beat(self) -> WorkerHeartbeat:
        if self.at_beats:
            raise self.at_beats.pop()
        if self.answered.is_set():
            threading.Event().wait()  # the thread has no end: here it rests
        return BEAT

    def register(self) -> None:
        if self.at_registrations:
            raise self.at_registrations.pop()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def heartbeat(service: ScriptedService, told: Told) -> Iterator[WorkerHeartbeatThread]:
    control = HttpControlPlane(url=service.url, worker_key="ts-worker", outage_patience_seconds=1)
    yield WorkerHeartbeatThread(
        control,
        worker_id="worker-1",
        interval_seconds=0.02,
        beat=told.beat,
        register=told.register,
        answered=told.answered.set,
    )
    control.close()


def test_an_error_that_nobody_foresaw_does_not_end_the_heartbeats(heartbeat: WorkerHeartbeatThread, told: Told) -> None:
    told.at_beats = [RuntimeError("a GPU that does not answer"), KeyError("pci"), OSError("no disk")]
    heartbeat.start()
    eventually(told.answered.is_set, seconds=20, what="an answer")
    assert not told.at_beats


def test_a_registration_that_fails_does_not_end_the_heartbeats(
    heartbeat: WorkerHeartbeatThread, service: ScriptedService, told: Told
) -> None:
    service.script("/heartbeat", *[Reply.error(404, "worker_not_found")] * 3)
    told.at_registrations = [RuntimeError("an answer that cannot be read"), OSError("no disk")]
    heartbeat.start()
    eventually(told.answered.is_set, seconds=20, what="an answer")
    assert not told.at_registrations
