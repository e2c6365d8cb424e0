"""The limits in seconds of docs/guarantees.md, with the intervals that an operator has who sets none."""

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
import redis

from tests.chaos.quick_installation import installation, submit
from tests.stack.up import Up, short_folder
from tests.stack.worker import Worker
from tests.waiting import eventually
from tunesmith.service.settings import Settings

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

START_SECONDS = 30.0  # of a job, from when Valkey answers again
END_SECONDS = 30.0  # of every process of an attempt, from when its worker comes back and is refused
FOUND_SECONDS = 90.0  # a dead worker, from its death until its job is in line again
LONG_EPOCHS = 50


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """Without a worker: each test starts the machines it is about."""
    names = ("lease_seconds", "heartbeat_seconds", "keeper_seconds", "retry_seconds")
    as_they_come = {f"TUNESMITH_{name.upper()}": str(Settings.model_fields[name].default) for name in names}
    with short_folder() as folder, installation(folder, "--no-worker", **as_they_come) as running:
        yield running


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_starts_within_thirty_seconds_after_valkey_is_back(up: Up, fault: signal.Signals) -> None:
    worker = up.start_worker(f"waits-{fault}")
    up.wait_for_end(submit(up, rows=8, epochs=1))
    for _ in range(3):
        valkey = eventually(lambda: up.pid("valkey"), what=up.logs)
        os.kill(valkey, fault)
        job_id = submit(up, rows=8, epochs=1)
        if fault == signal.SIGSTOP:
            time.sleep(20)  # as long as a machine that stands still for a moment
            os.kill(valkey, signal.SIGCONT)
        eventually(lambda: answers(up), what=lambda: f"a Valkey\n{up.logs()}")
        tell(f"start after {fault.name} of Valkey", until_it_runs(up, job_id, within_seconds=START_SECONDS))
        up.wait_for_end(job_id)
    assert worker.terminate() == 0


def test_a_worker_that_is_refused_has_ended_its_processes_within_thirty_seconds(up: Up) -> None:
    stale = up.start_worker("stale")
    job_id = started(up)
    frozen, trainers = stale.freeze(), stale.trainers()
    assert trainers
    eventually(lambda: up.attempts(job_id)[0]["outcome"] == "lost", seconds=FOUND_SECONDS, what=up.logs)
    stale.thaw(frozen)
    tell("end of a refused worker's processes", until_they_are_gone(stale, trainers, within_seconds=END_SECONDS))
    eventually(lambda: stale.said("attempt.lease_lost"), what=up.logs)
    up.cancel_everything()
    assert stale.terminate() == 0


def test_the_job_of_a_host_that_died_is_in_line_again_within_ninety_seconds(up: Up) -> None:
    dead = up.start_worker("dead")
    job_id = started(up)
    for process in [*psutil.Process(dead.process.pid).children(recursive=True), psutil.Process(dead.process.pid)]:
        process.kill()
    died_at = time.monotonic()
    up.wait_for_status(job_id, "queued", seconds=FOUND_SECONDS)
    tell("a dead worker's job in line again", time.monotonic() - died_at)
    up.cancel_everything()


def started(up: Up) -> str:
    """A job long enough for its worker to be ended meanwhile, past its first checkpoint."""
    job_id = submit(up, rows=200, epochs=LONG_EPOCHS)
    up.wait_for_step(job_id, 5)
    return job_id


def answers(up: Up) -> bool:
    password = (up.data_dir / "valkey" / "password").read_text().strip()
    socket = str(up.data_dir / "valkey" / "socket" / "valkey.sock")
    try:
        with redis.Redis(unix_socket_path=socket, password=password, socket_timeout=1) as valkey:
            return bool(valkey.ping())
    except redis.RedisError:
        return False


def until_it_runs(up: Up, job_id: str, *, within_seconds: float) -> float:
    began_at = time.monotonic()
    eventually(lambda: up.job(job_id)["status"] != "queued", seconds=within_seconds, what=up.logs)
    return time.monotonic() - began_at


def until_they_are_gone(worker: Worker, trainers: list[psutil.Process], *, within_seconds: float) -> float:
    began_at = time.monotonic()
    eventually(lambda: not set(trainers) & set(worker.trainers()), seconds=within_seconds, what="the end of a run")
    return time.monotonic() - began_at


def tell(what: str, seconds: float) -> None:
    """For whoever runs it with `-s`."""
    print(f"{what}: {seconds:.1f} s")
