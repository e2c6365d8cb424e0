"""A trainer that fills its worker's disk is stopped; what its plan predicts and what lies there anyway is no reason."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.attempt.test_preparation import claim
from tests.worker.attempt.test_stall import attempt, limits
from tunesmith.tuning.state import Outcome
from tunesmith.worker.attempt.disk.room import needed_bytes
from tunesmith.worker.attempt.disk.use import DiskLimits, DiskWatch, disk_limits
from tunesmith.worker.attempt.exit_classifier import TrainerExit, classify_exit
from tunesmith.worker.attempt.runner import AttemptRunner
from tunesmith.worker.attempt.stall import StallWatch
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.trainer_process.launcher import Trainer
from tunesmith.worker.trainer_process.log_file import scrubbed_copy
from tunesmith.worker.trainer_process.processes import tree

__all__ = ["attempt"]
MIB = 1024**2
NAMED = "file = open(f'{number}.bin', 'wb')"
DELETED = "file = open('hidden', 'wb'); os.unlink('hidden'); kept.append(file)"
FILL = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
kept = []
for number in range(100):
    {open}
    file.write(bytes(1024**2)); file.flush()
time.sleep(600)
"""


def now(watch: DiskWatch) -> DiskWatch:
    """One whose next look is due."""
    watch._next_look = 0.0
    return watch


@pytest.mark.parametrize("way", [NAMED, DELETED])
def test_a_trainer_that_fills_the_disk_is_killed_and_its_job_says_why(
    attempt: AttemptRunner, run: RunDirectory, begin: Callable[[str], Trainer], way: str
) -> None:
    trainer = begin(FILL.format(open=way))
    seen = attempt._watch(trainer, StallWatch(run, limits(600)), DiskWatch(run.root, DiskLimits(bytes=16 * MIB)))
    assert trainer.exit_code == -9
    assert tree(trainer.process.pid, run_dir=run.root) == []
    outcome, failure = classify_exit(TrainerExit(exit_code=-9, result=None, log_tail="last", overfull=seen.overfull))
    assert outcome is Outcome.FAILED
    assert failure is not None
    assert (failure.code, failure.retryable, failure.log_tail) == ("run_writes_too_much", False, "last")
    assert "are allowed by its plan" in failure.message


def test_so_many_files_that_no_inode_is_left_are_too_much_as_well(run: RunDirectory) -> None:
    watch = DiskWatch(run.root, DiskLimits(bytes=MIB * 1024, files=100))
    for number in range(101):
        (run.checkpoints / str(number)).mkdir()
    found = now(watch).overfull(os.getpid())
    assert found is not None
    assert "in 103 files" in found.message


def test_holes_second_names_and_links_take_no_room(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(2 * MIB))
    (run.root / "link").symlink_to(tmp_path / "large")
    (run.root / "once").write_bytes(bytes(MIB // 2))
    for number in range(8):
        (run.root / f"again-{number}").hardlink_to(run.root / "once")
    with (run.root / "holes").open("wb") as file:
        file.truncate(1024 * MIB)
    assert now(DiskWatch(run.root, DiskLimits(bytes=MIB))).overfull(os.getpid()) is None


def test_what_a_home_held_before_is_not_this_runs(run: RunDirectory, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "kernels").write_bytes(bytes(4 * MIB))
    watch = DiskWatch(run.root, DiskLimits(bytes=MIB), home=home)
    assert now(watch).overfull(os.getpid()) is None
    (home / "more").write_bytes(bytes(2 * MIB))
    assert now(watch).overfull(os.getpid()) is not None


def test_it_is_not_looked_at_all_the_time(run: RunDirectory) -> None:
    clock = [0.0]
    watch = DiskWatch(run.root, DiskLimits(bytes=0, files=0), clock=lambda: clock[0])
    assert watch.overfull(os.getpid()) is not None
    assert watch.overfull(os.getpid()) is None
    clock[0] = 2.0
    assert watch.overfull(os.getpid()) is not None


def test_a_plan_gets_three_times_what_it_predicts_and_room_for_small_things() -> None:
    wanted = claim()
    weights = sum(file.bytes for file in wanted.base_model.files)
    found = disk_limits(wanted, times_planned=3)
    assert found.bytes == 3 * needed_bytes(wanted, missing_model_bytes=0) + weights + 2 * 1024**3


def test_of_a_log_that_a_trainer_wrote_itself_the_end_alone_is_kept(run: RunDirectory, tmp_path: Path) -> None:
    run.log.write_bytes(b"x" * 3 * MIB + b"\nlast words")
    scrubbed_copy(run.log, tmp_path / "copy", cap_bytes=MIB)
    text = (tmp_path / "copy").read_text()
    assert text.startswith("[2,097,163 bytes of earlier output dropped]")
    assert len(text) < MIB + 100
    assert text.endswith("last words")
