"""A worker that is newer than its service says so and waits: what it would send might be refused."""

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.waiting import eventually
from tests.worker.scripted_service import Reply, ScriptedService
from tunesmith.worker.transport.control import HttpControlPlane
from tunesmith.worker.transport.retry import Patience, Unavailable

OURS = version("tunesmith")


def greeting(version: str) -> Reply:
    reply = Reply.json({"version": version, "at": 1.0})
    reply.headers["x-request-id"] = "req_1"
    return reply


@pytest.mark.parametrize("theirs", [OURS, "99.0", "a-build-of-ours"])
def test_a_service_that_is_not_older_is_taken_as_it_is(service: ScriptedService, theirs: str) -> None:
    service.script("/greetings", greeting(theirs))
    control = HttpControlPlane(url=service.url, worker_key="ts-worker", outage_patience_seconds=1)
    assert control.greet(Patience(seconds=0)).version == theirs
    control.close()


def test_an_older_service_is_waited_for_until_it_is_upgraded(service: ScriptedService) -> None:
    service.script("/greetings", greeting("0.0.1"), greeting("0.0.1"), greeting(OURS))
    noted: list[Unavailable] = []
    control = HttpControlPlane(url=service.url, worker_key="ts-worker", outage_patience_seconds=1)
    patience = Patience(seconds=60, jitter=lambda: 0.0, note=noted.append)
    assert control.greet(patience).version == OURS
    control.close()
    said = (
        f"The service is version 0.0.1, older than this worker, which is {OURS}. Upgrade the service first, or install "
        "tunesmith==0.0.1 here. The worker waits and takes no job until then."
    )
    assert [str(note) for note in noted] == [said] * 2


def test_a_worker_under_an_older_service_says_so_and_neither_registers_nor_ends(
    service: ScriptedService, tmp_path: Path
) -> None:
    service.otherwise = lambda _request: greeting("0.0.1")
    settings = {
        "TUNESMITH_URL": service.url,
        "TUNESMITH_WORKER_KEY": "ts-x",
        "TUNESMITH_WORK_DIR": str(tmp_path / "work"),
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tunesmith.worker.cli", "run"]
        worker = subprocess.Popen(command, env=os.environ | settings, stdout=output, stderr=output)
    try:
        eventually(lambda: log.read_text().count("Upgrade the service first") >= 2, what=log.read_text)
        assert {request.path for request in service.requests} == {"/internal/greetings"}
        assert worker.poll() is None
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
