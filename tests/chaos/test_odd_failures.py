"""What is rarer than a kill: a machine that stands still and comes back, a queue that forgets, a disk that is full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.chaos.quick_installation import installation, submit
from tests.chaos.test_kill_everything import assert_history_is_gapless
from tests.stack.up import Up, short_folder
from tests.waiting import eventually

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

MIB = 1024**2
LONG_EPOCHS = 30  # 1,500 steps


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    """Without a worker: each test starts the machines it is about."""
    with short_folder() as folder, installation(folder, "--no-worker", TUNESMITH_LEASE_SECONDS="4") as running:
        yield running


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_jobs_that_wait_start_although_the_queue_was_flushed(up: Up) -> None:
    jobs = [submit(up, rows=8, epochs=1), submit(up, rows=8, epochs=1)]
    flush(up)
    machine = up.start_worker("flushed")
    flush(up)
    assert [up.wait_for_end(job_id)["status"] for job_id in jobs] == [
        "succeeded",
        "succeeded",
    ]
    assert machine.terminate() == 0


def test_a_frozen_machine_that_comes_back_changes_nothing(up: Up) -> None:
    stale = up.start_worker("stale")
    job_id = submit(up, rows=200, epochs=LONG_EPOCHS)
    up.wait_for_checkpoint(job_id)
    frozen, stale_trainers = stale.freeze(), up.trainers()
    assert stale_trainers
    successor = up.start_worker("successor")
    up.wait_for_resumption(job_id, attempt=2)
    written = chunks_of_attempt(up, job_id, attempt=1)
    stale.thaw(frozen)

    eventually(lambda: stale.said("attempt.lease_lost"), seconds=60, what=lambda: f"the fence\n{up.logs()}")
    eventually(lambda: not set(stale_trainers) & set(up.trainers()), seconds=30, what=lambda: f"its end\n{up.logs()}")
    assert chunks_of_attempt(up, job_id, attempt=1) == written
    job = up.wait_for_end(job_id)
    assert job["status"] == "succeeded"
    assert [attempt["outcome"] for attempt in up.attempts(job_id)] == ["lost", "succeeded"]
    assert up.steps(job_id) == list(range(1, job["tunesmith"]["plan"]["total_steps"] + 1))
    assert_history_is_gapless(up, job_id)
    assert [stale.terminate(), successor.terminate()] == [0, 0]


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(up: Up, small_disk: Path) -> None:
    machine = up.start_worker("cramped", work_dir=small_disk)
    job_id = submit(up, rows=200, epochs=LONG_EPOCHS)
    up.wait_for_checkpoint(job_id)
    filler = fill(small_disk)
    job = up.wait_for_status(job_id, "queued")

    failures = [attempt["failure"]["code"] for attempt in up.attempts(job_id)]
    assert failures == ["disk_full"] * len(failures), f"{failures}\n{up.logs()}"
    assert len(failures) < job["tunesmith"]["max_attempts"]
    waiting = f"/v1/fine_tuning/jobs/{job_id}/waiting"
    eventually(lambda: "worker's disk" in str(up.get(waiting)["workers"]), what=lambda: str(up.get(waiting)))
    assert_checkpoints_are_whole(up, job_id)
    filler.unlink()
    assert up.wait_for_end(job_id)["status"] == "succeeded"
    assert_history_is_gapless(up, job_id)
    assert machine.terminate() == 0


def flush(up: Up) -> None:
    password = (up.data_dir / "valkey" / "password").read_text().strip()
    socket = str(up.data_dir / "valkey" / "socket" / "valkey.sock")
    with redis.Redis(unix_socket_path=socket, password=password) as valkey:
        assert valkey.flushall()


def chunks_of_attempt(up: Up, job_id: str, *, attempt: int) -> int:
    query = "SELECT count(*) FROM metric_chunks WHERE job_id = %s AND epoch = %s"
    return int(up.query(query, job_id, attempt)[0][0])


def fill(folder: Path) -> Path:
    """Take every byte that is free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        size = MIB
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2
    return filler


def assert_checkpoints_are_whole(up: Up, job_id: str) -> None:
    """Every file of every registered checkpoint is in the store under its hash, with its length."""
    registered = [files for (files,) in up.query("SELECT files FROM checkpoints WHERE job_id = %s", job_id)]
    assert registered
    stored = {path.name: path for path in (up.data_dir / "store").rglob("*") if path.is_file()}
    for files in registered:
        for file in files:
            assert stored[file["sha256"]].stat().st_size == file["bytes"]
