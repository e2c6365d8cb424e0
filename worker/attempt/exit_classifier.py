"""How a run ended: exit code, result file and log become one outcome and, when it failed, a failure that helps."""

import os
import re
import signal
from dataclasses import dataclass

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.state import Outcome
from tunesmith.worker.attempt.stop_requests import OUTCOMES, StopRequest
from tunesmith.worker.exits import crashed, killed
from tunesmith.worker.run_directory import EXIT_STOPPED, TrainResult

_NO_SPACE = re.compile(r"No space left on device|ENOSPC|Disk quota exceeded")
_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|^MemoryError|can't allocate memory|Cannot allocate memory|std::bad_alloc",
    re.M | re.I,
)


@dataclass(frozen=True)
class TrainerExit:
    """What is known after the last process of the trainer is gone."""

    exit_code: int
    result: TrainResult | None
    log_tail: str
    told: StopRequest | None = None  # why the worker stopped it, if it did
    stalled_seconds: float | None = None  # for how long it had shown nothing when the worker stopped it for that
    overfull: Failure | None = None  # why the worker stopped it, when it had written too much
    disk_error: int | None = None  # of writing into the run directory, when there is no result
    out_of_memory_kills: int = 0  # how many the kernel made in this cgroup while the trainer ran


def classify_exit(ending: TrainerExit) -> tuple[Outcome, Failure | None]:
    """The outcome of an attempt. A run that finished its work has succeeded, even when it was being told to stop."""
    result = ending.result
    if ending.exit_code == 0 and result is not None and result.failure is None:
        return Outcome.CANCELLED if ending.told is StopRequest.CANCEL else Outcome.SUCCEEDED, None
    if ending.told is not None and ending.told in OUTCOMES:
        return OUTCOMES[ending.told], None
    if (because := _stopped_for(ending)) is not None:
        return Outcome.FAILED, _with_tail(because, ending.log_tail)
    if ending.exit_code == EXIT_STOPPED:
        return Outcome.PREEMPTED, None
    if result is not None and result.failure is not None:
        failure = _blame_memory(result.failure) if ending.out_of_memory_kills else result.failure
        return Outcome.FAILED, _with_tail(failure, ending.log_tail)
    return Outcome.FAILED, _with_tail(_failure(ending), ending.log_tail)


def _failure(ending: TrainerExit) -> Failure:
    if ending.disk_error is not None:
        return disk_unusable(os.strerror(ending.disk_error))
    if _NO_SPACE.search(ending.log_tail):
        return disk_full("The disk of the worker filled up during the run.")
    if ending.exit_code == -signal.SIGKILL and ending.out_of_memory_kills:
        message = "The kernel killed the trainer (SIGKILL) because the memory of the worker ran out."
        return _out_of_memory(message, by=signal.SIGKILL.name)
    if ending.exit_code < 0:
        return killed(ending.exit_code)
    if _NO_MEMORY.search(ending.log_tail):
        return _out_of_memory("The trainer ran out of memory.")
    return crashed(ending.exit_code)


def _stopped_for(ending: TrainerExit) -> Failure | None:
    """What it did that the worker stopped it for, by itself."""
    if ending.stalled_seconds is not None:
        return _stalled(ending.stalled_seconds)
    return ending.overfull


def _stalled(seconds: float) -> Failure:
    return Failure(
        code=ErrorCode.TRAINER_STALLED,
        message=f"The trainer showed no new step, event or phase for {seconds:,.0f} s and was stopped.",
        category=Category.STALLED,
        retryable=True,
        hint="The end of its log says what it did last; TUNESMITH_STALL_SECONDS of the worker sets the shortest wait.",
    )


def disk_full(message: str) -> Failure:
    """The machine, not the job: another worker may have room."""
    return Failure(
        code=ErrorCode.DISK_FULL,
        message=message,
        category=Category.DISK_FULL,
        retryable=True,
        hint="Free space below TUNESMITH_WORK_DIR on the worker, or give it a larger disk.",
    )


def disk_unusable(because: str) -> Failure:
    """The machine, not the job, and no cleaning up will help it."""
    return Failure(
        code=ErrorCode.DISK_UNUSABLE,
        message=f"The disk of the worker cannot be used: {because}.",
        category=Category.TRANSIENT,
        retryable=True,
        hint="The disk below TUNESMITH_WORK_DIR is read-only or fails: look at the kernel's log of that host.",
    )


def _out_of_memory(message: str, *, by: str | None = None) -> Failure:
    return Failure(
        code=ErrorCode.OUT_OF_MEMORY,
        message=message,
        category=Category.OUT_OF_MEMORY,
        retryable=True,
        hint="Lower max_seq_length or the LoRA rank, choose method qlora, or use a worker with more memory.",
        signal=by,
    )


def _blame_memory(failure: Failure) -> Failure:
    """One process of several was killed while the kernel was short of memory; which one is in the message."""
    if failure.signal != signal.SIGKILL.name:
        return failure
    message = f"{failure.message} The kernel did it because the memory of the worker ran out."
    return _out_of_memory(message, by=failure.signal).model_copy(update={"rank": failure.rank})


def _with_tail(failure: Failure, tail: str) -> Failure:
    return failure if failure.log_tail or not tail else failure.model_copy(update={"log_tail": tail})
