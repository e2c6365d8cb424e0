"""Every way a trainer can end has one outcome, and a failure says who can do something about it."""

import errno
import signal

import pytest

from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome
from tunesmith.worker.attempt.exit_classifier import TrainerExit, classify_exit
from tunesmith.worker.attempt.stop_requests import StopRequest
from tunesmith.worker.exits import killed
from tunesmith.worker.run_directory import EXIT_FAILED, EXIT_STOPPED, TrainResult

DONE = TrainResult(output_kind="adapter", steps=3)


def ending(exit_code: int, **facts: object) -> TrainerExit:
    return TrainerExit(**{"exit_code": exit_code, "result": None, "log_tail": "last words", **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        (StopRequest.CANCEL, Outcome.CANCELLED),
        (StopRequest.PAUSE, Outcome.PAUSED),
        (StopRequest.DRAIN, Outcome.PREEMPTED),
        (None, Outcome.PREEMPTED),
    ],
)
def test_a_trainer_that_stopped_on_request_ends_as_it_was_told(told: StopRequest | None, outcome: Outcome) -> None:
    assert classify_exit(ending(EXIT_STOPPED, told=told)) == (outcome, None)


@pytest.mark.parametrize("told", [StopRequest.PAUSE, StopRequest.DRAIN, None])
def test_a_run_that_finished_all_its_work_has_succeeded_whatever_it_was_told(told: StopRequest | None) -> None:
    assert classify_exit(ending(0, result=DONE, told=told)) == (Outcome.SUCCEEDED, None)


def test_a_cancelled_run_never_succeeds() -> None:
    assert classify_exit(ending(0, result=DONE, told=StopRequest.CANCEL)) == (Outcome.CANCELLED, None)


def test_a_drained_trainer_that_had_to_be_killed_is_preempted_too() -> None:
    assert classify_exit(ending(-9, told=StopRequest.DRAIN)) == (Outcome.PREEMPTED, None)


def test_the_trainers_own_failure_is_kept_and_gets_the_end_of_the_log() -> None:
    own = Failure(code="bad_rows", message="Row 3.", category=Category.USER_ERROR)
    outcome, failure = classify_exit(ending(EXIT_FAILED, result=TrainResult(failure=own)))
    assert outcome is Outcome.FAILED
    assert failure == own.model_copy(update={"log_tail": "last words"})


@pytest.mark.parametrize(
    ("facts", "code", "category"),
    [
        ({"exit_code": -9}, "trainer_killed", Category.WORKER_LOST),
        ({"exit_code": -9, "out_of_memory_kills": 1}, "out_of_memory", Category.OUT_OF_MEMORY),
        ({"exit_code": -11}, "trainer_killed", Category.WORKER_LOST),
        ({"exit_code": 1, "log_tail": "OSError: [Errno 28] No space left on device"}, "disk_full", Category.DISK_FULL),
        ({"exit_code": 1, "disk_error": errno.EROFS}, "disk_unusable", Category.TRANSIENT),
        ({"exit_code": 1, "log_tail": "torch.OutOfMemoryError: CUDA"}, "out_of_memory", Category.OUT_OF_MEMORY),
        ({"exit_code": 1}, "trainer_crashed", Category.INTERNAL),
        ({"exit_code": -9, "stalled_seconds": 901.0}, "trainer_stalled", Category.STALLED),
        ({"exit_code": EXIT_STOPPED, "stalled_seconds": 901.0}, "trainer_stalled", Category.STALLED),
        ({"exit_code": 0}, "trainer_crashed", Category.INTERNAL),
    ],
)  # fmt: skip
def test_an_end_without_a_result_is_explained(facts: dict[str, object], code: str, category: Category) -> None:
    outcome, failure = classify_exit(ending(**facts))  # type: ignore[arg-type]
    assert outcome is Outcome.FAILED
    assert failure is not None
    assert (failure.code, failure.category, failure.retryable) == (code, category, True)
    assert failure.log_tail


def of_one_process(exit_code: int) -> TrainResult:
    return TrainResult(failure=killed(exit_code).model_copy(update={"message": "Process 1 of 2 ended."}))


@pytest.mark.parametrize(("exit_code", "code"), [(-9, "out_of_memory"), (-11, "trainer_killed")])
def test_memory_is_blamed_for_a_process_of_several_only_where_the_kernel_killed_it(exit_code: int, code: str) -> None:
    _, failure = classify_exit(ending(EXIT_FAILED, result=of_one_process(exit_code), out_of_memory_kills=1))
    assert failure is not None
    assert (failure.code, failure.signal) == (code, signal.Signals(-exit_code).name)


def test_the_rank_that_failed_first_is_kept_where_memory_is_blamed() -> None:
    own = of_one_process(-9)
    assert own.failure is not None
    ranked = TrainResult(failure=own.failure.model_copy(update={"rank": 3}))
    _, failure = classify_exit(ending(EXIT_FAILED, result=ranked, out_of_memory_kills=1))
    assert failure is not None
    assert (failure.code, failure.rank) == ("out_of_memory", 3)


def test_a_trainer_that_finished_while_it_was_being_stopped_for_its_silence_has_succeeded() -> None:
    assert classify_exit(ending(0, result=DONE, stalled_seconds=901.0)) == (Outcome.SUCCEEDED, None)


def test_a_message_that_speaks_of_a_signal_blames_no_memory() -> None:
    own = Failure(code="bad_rows", message="Row 3 says SIGKILL.", category=Category.USER_ERROR, log_tail="last words")
    _, failure = classify_exit(ending(EXIT_FAILED, result=TrainResult(failure=own), out_of_memory_kills=1))
    assert failure == own


def test_the_signal_is_named() -> None:
    _, failure = classify_exit(ending(-9))
    assert failure is not None
    assert failure.signal == "SIGKILL"
    assert "SIGKILL" in failure.message
    assert "memory" in (failure.hint or "")
