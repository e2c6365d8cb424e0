"""A trainer that hangs is told from one that works, and stopped; one that is slow as planned is left alone."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.typing import FilteringBoundLogger

from tests.worker.attempt.test_preparation import DATASET, claim, host
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.attempt.disk.room import moved_bytes
from tunesmith.worker.attempt.disk.use import DiskLimits, DiskWatch
from tunesmith.worker.attempt.rehearsals import Rehearsals
from tunesmith.worker.attempt.runner import AttemptContext, AttemptRunner
from tunesmith.worker.attempt.stall import SilenceLimits, StallWatch, silence_limits
from tunesmith.worker.attempt.stop_requests import StopRequest
from tunesmith.worker.machine.slots import Slot
from tunesmith.worker.run_directory import RunDirectory, append_line, write_atomically
from tunesmith.worker.settings import WorkerSettings
from tunesmith.worker.trainer_process.launcher import Trainer
from tunesmith.worker.trainer_process.processes import tree
from tunesmith.worker.transport.control import HttpAttemptControl
from tunesmith.worker.transport.model_cache import ModelCache
from tunesmith.worker.work_directory import WorkDirectory

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w'); time.sleep(600)"
WORKING = """
import time
for step in range(40):
    with open('metrics.jsonl', 'a') as file:
        file.write('{"step": %d}\\n' % step)
    time.sleep(0.02)
"""


@pytest.fixture
def attempt(tmp_path: Path, control: HttpAttemptControl, log: FilteringBoundLogger) -> AttemptRunner:
    work = WorkDirectory(tmp_path / "work")
    work.create()
    values = {"url": "http://127.0.0.1:1", "worker_key": "ts-worker", "REDIS_URL": "redis://127.0.0.1:1"}
    settings = WorkerSettings(**values, work_dir=work.root, cancel_grace_seconds=0.1)
    around = AttemptContext(
        work=work,
        settings=settings,
        slot=Slot(index=0),
        hardware=host(),
        models=ModelCache(work.models),
        rehearsals=Rehearsals(),
    )
    return AttemptRunner(claim(), control=control, surroundings=around, log=log)


def limits(seconds: float) -> SilenceLimits:
    return SilenceLimits(before_first_step=seconds, later=seconds)


def roomy(run: RunDirectory) -> DiskWatch:
    return DiskWatch(run.root, DiskLimits(bytes=GIB))


def test_a_trainer_that_hangs_and_is_deaf_is_killed_and_said_to_be_stalled(
    attempt: AttemptRunner, run: RunDirectory, begin: Callable[[str], Trainer]
) -> None:
    trainer = begin(DEAF)
    while not (run.root / "ready").exists():
        time.sleep(0.01)
    seen = attempt._watch(trainer, StallWatch(run, limits(0.3)), roomy(run))
    assert seen.told is None
    assert seen.stalled_seconds is not None
    assert seen.stalled_seconds > 0.3
    assert trainer.exit_code == -9
    assert tree(trainer.process.pid, run_dir=run.root) == []


def test_a_trainer_that_steps_is_left_alone_for_longer_than_it_may_be_silent(
    attempt: AttemptRunner, run: RunDirectory, begin: Callable[[str], Trainer]
) -> None:
    trainer = begin(WORKING)
    stall = StallWatch(run, limits(10), clock=run.last_step)  # time that a busy machine cannot stretch
    seen = attempt._watch(trainer, stall, roomy(run))
    assert (seen.told, seen.stalled_seconds, seen.overfull) == (None, None, None)
    assert trainer.exit_code == 0


def test_a_cancel_while_it_is_stopped_for_its_silence_counts_as_a_cancel(
    attempt: AttemptRunner, run: RunDirectory, begin: Callable[[str], Trainer]
) -> None:
    watch = StallWatch(run, limits(0.0), clock=time.monotonic)
    trainer = begin(DEAF)
    attempt._stop_stalled = lambda *_: attempt._directives.tell(StopRequest.CANCEL)  # type: ignore[method-assign]
    assert attempt._watch(trainer, watch, roomy(run)).told is StopRequest.CANCEL


class TestSigns:
    @pytest.fixture
    def clock(self) -> list[float]:
        return [0.0]

    @pytest.fixture
    def watch(self, run: RunDirectory, clock: list[float]) -> StallWatch:
        return StallWatch(run, SilenceLimits(before_first_step=100, later=10), clock=lambda: clock[0])

    @pytest.mark.parametrize(
        "sign",
        [
            lambda run: append_line(run.metrics, {"step": 1}),
            lambda run: append_line(run.events, {"message": "still here"}),
            lambda run: append_line(run.timeline, {"reached": "rows_ready"}),
            lambda run: write_atomically(run.phase, "training"),
            lambda run: (run.checkpoints / "step-1").mkdir(),
        ],
    )
    def test_each_is_enough(
        self, watch: StallWatch, run: RunDirectory, clock: list[float], sign: Callable[[RunDirectory], object]
    ) -> None:
        clock[0] = 101.0
        assert watch.stalled_seconds() == 101.0
        sign(run)
        assert watch.stalled_seconds() is None

    def test_after_the_first_step_the_limit_is_that_of_steps(
        self, watch: StallWatch, run: RunDirectory, clock: list[float]
    ) -> None:
        clock[0] = 50.0
        assert watch.stalled_seconds() is None
        append_line(run.metrics, {"step": 1})
        assert watch.stalled_seconds() is None
        clock[0] = 61.0
        assert watch.stalled_seconds() == 11.0


class TestLimits:
    def plan(self, **time: float) -> Plan:
        chosen = claim().plan
        return chosen.model_copy(update={"total_steps": 10, "time": chosen.time.model_copy(update=time)})

    def test_a_tiny_job_gets_the_shortest_wait(self) -> None:
        found = silence_limits(claim().plan, DATASET, moved_bytes=moved_bytes(claim()), at_least_seconds=900)
        assert 900 <= found.later < 905
        assert found.later < found.before_first_step < found.later + 5

    def test_slow_steps_and_long_evaluations_get_ten_times_their_predicted_time(self) -> None:
        slow = self.plan(seconds=10_000, evaluation_seconds=0, sample_seconds=0)
        assert silence_limits(slow, DATASET, moved_bytes=0, at_least_seconds=900).later == 10_000
        evaluating = self.plan(seconds=10_000, evaluation_seconds=4_000, sample_seconds=1_000)
        assert silence_limits(evaluating, DATASET, moved_bytes=0, at_least_seconds=900).later == 50_000

    def test_large_weights_get_the_time_to_be_read_and_many_rows_the_time_to_be_tokenised(self) -> None:
        many = DATASET.model_copy(update={"rows": 1_000_000})
        found = silence_limits(claim().plan, many, moved_bytes=50_000_000_000, at_least_seconds=900)
        assert found.later == 1900
        assert found.before_first_step == pytest.approx(21_900)
