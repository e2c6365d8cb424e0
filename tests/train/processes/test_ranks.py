"""Several processes under the launcher: they stop together, and when one dies the others end and it is named."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests import plans
from tests.ports import free_port
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tunesmith.tuning.errors import Category, Failure
from tunesmith.worker.run_directory import EXIT_FAILED, EXIT_STOPPED, RunDirectory
from tunesmith.worker.train import ranks
from tunesmith.worker.train.checkpoints.state import newest_whole, verify

BOUND_SECONDS = 120
SOON_SECONDS = 30  # after which torchrun would end by force what hangs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def directory(tmp_path: Path, model: Path) -> RunDirectory:
    return runs.make_run(tmp_path, model=model, plan=plans.plan(world_size=2, epochs=500, checkpoint_interval_steps=5))


@contextmanager
def launched(directory: RunDirectory, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    with directory.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tunesmith.worker.train.ranks", str(directory.root), *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(runs.REPOSITORY)},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            for left in psutil.Process(process.pid).children(recursive=True):
                left.kill()
        process.kill()
        process.wait()


def process_of_rank(rank: int, launcher: subprocess.Popen[bytes]) -> psutil.Process:
    children = psutil.Process(launcher.pid).children(recursive=True)
    return next(child for child in children if child.environ().get("RANK") == str(rank))


def told(directory: RunDirectory) -> Failure:
    result = directory.read_result()
    assert result is not None, directory.log.read_text()
    assert result.failure is not None
    return result.failure


@pytest.mark.slow
def test_two_hosts_meet_train_and_stop_together_with_one_whole_checkpoint(directory: RunDirectory) -> None:
    # Two launchers as on two hosts, each with an address of its own, that share nothing but the run directory.
    shared = ["--processes", "1", "--hosts", "2", "--rendezvous", f"127.0.0.1:{free_port()}", "--local-address"]
    with launched(directory, *shared, "127.0.0.1") as first, launched(directory, *shared, "127.0.0.2") as second:
        runs.wait_for_step(directory, 2, first)
        second.terminate()
        codes = [launcher.wait(timeout=BOUND_SECONDS) for launcher in (first, second)]
    assert codes == [EXIT_STOPPED, EXIT_STOPPED], directory.log.read_text()
    newest = newest_whole(directory.checkpoints)
    assert newest is not None
    manifest = verify(newest)
    assert (manifest.step, manifest.world_size) == (directory.last_step(), 2)
    assert "random-00001.safetensors" in manifest.files


def test_the_process_that_was_killed_is_named_and_the_others_end(directory: RunDirectory) -> None:
    with launched(directory, "--processes", "2") as launcher:
        runs.wait_for_step(directory, 2, launcher)
        process_of_rank(1, launcher).kill()
        began = time.monotonic()
        assert launcher.wait(timeout=BOUND_SECONDS) == EXIT_FAILED
        assert time.monotonic() - began < SOON_SECONDS
    failure = told(directory)
    assert failure.code == "trainer_killed"
    assert failure.message.startswith("Process 1 of 2 on ")
    assert "SIGKILL" in failure.message
    assert directory.read_rank_failures()[0].code == "process_lost"


def failure(code: str) -> Failure:
    return Failure(code=code, message=f"It was {code}.", category=Category.INTERNAL)


@pytest.mark.parametrize(
    ("said", "exit_codes", "first"),
    [
        ({0: failure("process_lost"), 1: failure("broken_model")}, {0: 1, 1: 1}, "Process 1"),
        ({0: failure("process_lost")}, {0: 1, 1: -signal.SIGSEGV}, "Process 1"),
        ({0: failure("process_lost"), 1: failure("process_lost")}, {1: 1, 0: 1}, "Process 1"),
        ({0: failure("process_lost"), 3: failure("disk_full")}, {0: 1}, "Process 3"),
        ({2: failure("disk_full")}, {2: 1, 0: -signal.SIGKILL}, "Process 2"),
        ({0: failure("process_lost")}, {0: 1, 1: 3}, "Process 1"),
    ],
)
def test_one_that_only_lost_another_is_not_the_first_to_die(
    tmp_path: Path, said: dict[int, Failure], exit_codes: dict[int, int], first: str
) -> None:
    directory = RunDirectory(tmp_path)
    for rank, reason in said.items():
        directory.write_rank_failure(rank, reason, processes=4)
    found = ranks._first_failure(directory, exit_codes, hosts=1, processes=4)
    assert found.message.startswith(first)
