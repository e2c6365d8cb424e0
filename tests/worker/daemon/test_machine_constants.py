"""What a machine measures about itself: once, kept on disk, and never in the way of a start."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.daemon.machine_constants import measure_once, stored_constants
from tunesmith.worker.work_directory import WorkDirectory

GOOD = {
    "process_bytes": 400_000_000,
    "threads": 2,
    "matmul_16bit_flops_per_second": 3e11,
    "matmul_fp32_flops_per_second": 1e11,
}
WRITES = f"import pathlib, sys; pathlib.Path(sys.argv[1]).write_text({json.dumps(GOOD)!r})"


@pytest.fixture
def work(tmp_path: Path) -> WorkDirectory:
    directory = WorkDirectory(tmp_path / "work")
    directory.create()
    return directory


def host(**installed: str) -> HardwareProfile:
    cpu = Cpu(model="test", cores=1, memory_total_bytes=8 * GIB, memory_free_bytes=4 * GIB)
    return HardwareProfile(cpu=cpu, installed={"torch": "2.13", **installed})


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_a_real_measurement_gives_numbers_that_a_machine_can_have(work: WorkDirectory) -> None:
    found = measure_once(work, host())
    assert found is not None
    assert 100 << 20 < found.process_bytes < 2 * GIB
    assert found.threads == 1
    assert 1e8 < found.matmul_fp32_flops_per_second < 1e14
    assert found.cuda_context_bytes is None
    assert stored_constants(work, host()) == found


def test_a_later_start_reads_what_an_earlier_one_measured(work: WorkDirectory) -> None:
    first = measure_once(work, host(), command=python(WRITES))
    assert first is not None
    assert measure_once(work, host(), command=["/does/not/exist"]) == first


def test_less_free_memory_changes_nothing_and_another_library_measures_anew(work: WorkDirectory) -> None:
    first = measure_once(work, host(), command=python(WRITES))
    busy = host().model_copy(update={"cpu": host().cpu.model_copy(update={"memory_free_bytes": GIB})})
    assert stored_constants(work, busy) == first
    assert stored_constants(work, host(torch="2.14")) is None
    assert measure_once(work, host(torch="2.14"), command=python(WRITES)) == first


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(python("raise SystemExit('no torch here')"), id="fails"),
        pytest.param(python("pass"), id="says-nothing"),
        pytest.param(python(WRITES.replace("400000000", "-1")), id="absurd"),
        pytest.param(["/does/not/exist"], id="cannot-start"),
    ],
)
def test_a_worker_comes_up_without_numbers_when_measuring_fails(work: WorkDirectory, command: list[str]) -> None:
    assert measure_once(work, host(), command=command) is None
    assert stored_constants(work, host()) is None


def test_a_measurement_that_hangs_is_ended(work: WorkDirectory) -> None:
    command = python("import time; time.sleep(600)")
    assert measure_once(work, host(), command=command, patience_seconds=0.2) is None
    assert not [child for child in psutil.Process().children() if str(work.root) in " ".join(child.cmdline())]


def test_a_failure_stands_for_an_hour_and_is_then_tried_again(work: WorkDirectory) -> None:
    measure_once(work, host(), command=python("raise SystemExit(1)"))
    assert measure_once(work, host(), command=python(WRITES)) is None
    stored = json.loads(work.constants.read_text())
    work.constants.write_text(json.dumps(stored | {"measured_at": stored["measured_at"] - 3700}))
    assert measure_once(work, host(), command=python(WRITES)) is not None


def test_a_damaged_file_is_measured_again(work: WorkDirectory) -> None:
    work.constants.write_text('{"made_for":')
    assert measure_once(work, host(), command=python(WRITES)) is not None
