"""`make chaos`: minutes of random kills, replayable by their seed. CHAOS_SEED and CHAOS_SECONDS change the defaults."""

import contextlib
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.quick_installation import installation, submit
from tests.chaos.reference import UndisturbedRun, request_of
from tests.chaos.test_kill_everything import WEIGHTS, assert_history_is_gapless, pull_adapter
from tests.stack.up import SERVICES, Up, short_folder
from tests.waiting import eventually
from tunesmith.tuning.codes import RUN_DIRECTORY_VARIABLE
from tunesmith.worker.hashes import sha256_of

ROWS, EPOCHS, JOBS = 200, 30, 3
POISON_KILLS = 3  # a job whose trainer is killed so often under a living worker is given up, by design
PATIENCE_SECONDS = 900.0


@pytest.fixture
def up() -> Iterator[Up]:
    with short_folder() as folder, installation(folder, TUNESMITH_MAX_ATTEMPTS="100") as running:
        yield running


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_random_kills_lose_nothing_and_change_no_byte(up: Up, tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))
    seconds = float(os.environ.get("CHAOS_SECONDS") or 180)
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:.0f}")
    jobs = [submit(up, rows=ROWS, epochs=EPOCHS) for _ in range(JOBS)]
    up.wait_for_step(jobs[0], 1)
    with UndisturbedRun(request_of(up, jobs[0]), folder=tmp_path / "undisturbed") as undisturbed:
        kills = kill_at_random(up, random=random.Random(seed), seconds=seconds)
        print(f"kills: {dict(kills)}")
        eventually(lambda: all(up.pid(part) for part in SERVICES), seconds=90, what=up.logs)
        ended = [up.wait_for_end(job_id, seconds=PATIENCE_SECONDS) for job_id in jobs]
        expected = undisturbed.wait(seconds=PATIENCE_SECONDS)

    print(f"attempts: {[len(up.attempts(job_id)) for job_id in jobs]}")
    for job in ended:
        assert job["status"] == "succeeded", f"CHAOS_SEED={seed}: {job['error']}\n{up.logs()}"
        assert up.steps(job["id"]) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))
        assert_history_is_gapless(up, job["id"])
        adapter = pull_adapter(up, job["id"], tmp_path / job["id"])
        assert sha256_of(adapter / WEIGHTS) == sha256_of(expected / WEIGHTS)
    assert up.stop() == 0
    assert up.pids() == []


def kill_at_random(up: Up, *, random: random.Random, seconds: float) -> "Counter[str]":
    """SIGKILL one part after another, sometimes before the one before is back."""
    kills: Counter[str] = Counter()
    of_trainers: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        part = random.choice((*SERVICES, "trainer"))
        pause = random.uniform(0.2, 12.0)
        pid = up.pid(part)
        if pid is not None and (part != "trainer" or may_be_killed(pid, of_trainers)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                kills[part] += 1
        time.sleep(pause)
    assert kills.total() > 0
    return kills


def may_be_killed(pid: int, of_trainers: "Counter[str]") -> bool:
    """Counts the kill of a job's trainer unless it would be the one that makes the job poison."""
    try:
        job_id = Path(psutil.Process(pid).environ()[RUN_DIRECTORY_VARIABLE]).parent.name
    except (psutil.Error, KeyError):
        return False
    if of_trainers[job_id] + 1 >= POISON_KILLS:
        return False
    of_trainers[job_id] += 1
    return True
