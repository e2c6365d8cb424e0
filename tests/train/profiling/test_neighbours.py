"""What others use of the machine while a run trains: other programs count, the run's own processes do not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.waiting import PATIENCE_SECONDS
from tunesmith.local.embedded.process import wait_until
from tunesmith.worker.train.profiling import neighbours
from tunesmith.worker.train.profiling.neighbours import GpuNeighbours, Usage, share_of_others, usage

BURN = """
import os, pathlib, sys, time
signs, end = pathlib.Path(sys.argv[1]), time.monotonic() + 600
(signs / f"begun-{os.getpid()}").touch()
while time.monotonic() < end and not (signs / "stop").exists():
    sum(range(100_000))
"""
PROCESSORS = len(os.sched_getaffinity(0))
seconds = st.floats(0, 1e6)


@given(seconds, seconds, seconds, st.integers(1, 256))
def test_the_share_lies_between_nothing_and_the_whole_machine(
    elapsed: float, everybody: float, own: float, processors: int
) -> None:
    share = share_of_others(Usage(0, 0, 0), Usage(elapsed, everybody, own), processors=processors)
    assert share is None if elapsed < neighbours.SHORTEST_SECONDS else share is not None and 0 <= share <= 1


@given(st.floats(0.2, 1e4), st.floats(0, 1), st.floats(0, 1), st.integers(1, 256))
def test_it_is_what_is_busy_less_what_is_our_own(elapsed: float, own: float, others: float, processors: int) -> None:
    available = elapsed * processors
    own_seconds = own * (1 - others) * available
    now = Usage(5 + elapsed, 7 + own_seconds + others * available, 3 + own_seconds)
    assert share_of_others(Usage(5, 7, 3), now, processors=processors) == pytest.approx(others, abs=1e-6)


@pytest.fixture
def signs(tmp_path: Path) -> Iterator[Path]:
    """Where burning processes leave a file when they begin, and look for the one that ends them."""
    yield tmp_path
    (tmp_path / "stop").touch()


def test_a_busy_program_on_the_machine_is_seen(signs: Path) -> None:
    command = f'for n in $(seq {PROCESSORS}); do "{sys.executable}" -c "$0" "$1" & done'
    subprocess.run(["sh", "-c", command, BURN, str(signs)], check=True)  # its children are not of this process's tree
    assert wait_until(lambda: len(list(signs.glob("begun-*"))) == PROCESSORS, timeout_seconds=PATIENCE_SECONDS)
    began, readings = looked(), [looked()]

    def others_worked_for_a_second() -> bool:
        readings.append(looked())
        return readings[-1].everybody - began.everybody - (readings[-1].own - began.own) > 1.0

    assert wait_until(others_worked_for_a_second, timeout_seconds=PATIENCE_SECONDS)
    share = share_of_others(began, readings[-1], processors=PROCESSORS)
    assert share is not None
    assert share > 0.8


def test_a_child_of_ours_is_not_another_whether_it_lives_or_has_ended(signs: Path) -> None:
    began = looked()
    child = subprocess.Popen([sys.executable, "-c", BURN, str(signs)])
    assert wait_until(lambda: processor_seconds(child) > 0.5, timeout_seconds=PATIENCE_SECONDS)
    used, alive = processor_seconds(child), looked()
    (signs / "stop").touch()
    child.wait()
    ended = looked()
    assert alive.own - began.own >= used
    assert ended.own >= alive.own


def looked() -> Usage:
    found = usage()
    assert found is not None
    return found


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def test_a_run_says_what_others_used_and_its_canary_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(Usage(float(at), everybody=at * PROCESSORS * 0.5, own=0.0) for at in range(100))
    monkeypatch.setattr(neighbours, "usage", lambda: next(readings))
    model = build_tiny_model(tmp_path / "model")
    directory = runs.make_run(tmp_path / "run", model=model, plan=plans.plan(total_steps=2))
    assert runs.train_here(directory) == 0
    result, canary = directory.read_result(), directory.read_canary()
    assert result is not None
    assert canary is not None
    assert result.others_share == canary.others_share == pytest.approx(0.5)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """A GPU whose NVML gives these lists of samples, one for each look."""
    looks: list[list[Any]] = []
    monkeypatch.setattr(neighbours, "_handle", lambda _device: "a handle")
    monkeypatch.setattr(neighbours, "LOOK_SECONDS", 0.0)

    def give(_handle: Any, _since: int) -> list[Any]:
        if not looks:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return looks.pop(0)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetProcessUtilization", give)
    return looks


def sample(pid: int, used: int) -> Any:
    return SimpleNamespace(pid=pid, smUtil=used, timeStamp=1)


def share_after(looks: list[list[Any]]) -> float | None:
    watched = GpuNeighbours(torch.device("cuda"))
    for _ in range(len(looks)):
        watched.look()
    return watched.share()


def test_other_processes_on_the_gpu_are_counted_by_the_mean_of_their_samples(gpu: list[list[Any]]) -> None:
    other = os.getpid() + 1_000_000
    gpu += [[sample(os.getpid(), 60), sample(other, 20), sample(other, 60)], [sample(os.getpid(), 90)]]
    assert share_after(gpu) == pytest.approx(0.2)


def test_where_nvml_names_processes_by_other_numbers_nothing_is_said(gpu: list[list[Any]]) -> None:
    gpu += [[sample(os.getpid() + 1_000_000, 100)]]
    assert share_after(gpu) is None


def test_a_gpu_that_does_not_count_says_nothing(gpu: list[list[Any]]) -> None:
    watched = GpuNeighbours(torch.device("cuda"))
    watched.look()
    assert gpu == []
    assert watched.share() is None
