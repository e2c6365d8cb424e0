"""How a training run fails: stable codes, what a person can do about each, and the translation of library errors."""

import errno
import re
from collections.abc import Callable, Collection
from typing import Final

import torch
import torch.distributed

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, JobFailure, TunesmithError

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|not enough memory", re.I)

_CONNECTION_LOST = re.compile(
    r"NCCL|Connection (closed|reset|refused)|Broken pipe|pair closure|Timed out waiting", re.I
)


def user_error(code: ErrorCode, message: str, *, hint: str, param: str | None = None) -> JobFailure:
    """Data or settings that cannot work: never retried."""
    return JobFailure(Failure(code=code, message=message, hint=hint, param=param, category=Category.USER_ERROR))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the accelerator's or the host's memory is exhausted."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` or one of its causes says that a file system is full; native writers say it only in words."""
    return _says(error, numbers=(errno.ENOSPC, errno.EDQUOT), words=("No space left on device", "os error 28"))


def is_disk_unusable(error: BaseException) -> bool:
    """The same of one that is read-only or fails."""
    words = ("Read-only file system", "os error 30", "Input/output error", "os error 5)")
    return _says(error, numbers=(errno.EROFS, errno.EIO), words=words)


def failure_of(error: BaseException, *, step: int) -> Failure:
    """The `Failure` to store for any exception that ended the run at optimizer step `step`."""
    if isinstance(error, JobFailure):
        return error.failure
    if isinstance(error, TunesmithError):
        return Failure(
            code=error.code, message=error.message, param=error.param, hint=error.hint, category=Category.USER_ERROR
        )
    for is_it, failure in _KINDS:
        if is_it(error):
            return failure(step)
    return Failure(
        code=ErrorCode.INTERNAL_ERROR,
        message=f"The trainer stopped at step {step} by an error of its own ({type(error).__name__}).",
        category=Category.INTERNAL,
        retryable=True,
        hint="The log of the attempt has the details; the job is tried again from its last checkpoint.",
    )


def _says(error: BaseException, *, numbers: Collection[int], words: Collection[str]) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in numbers:
            return True
        if any(sign in str(seen) for sign in words):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _disk_unusable(step: int) -> Failure:
    return Failure(
        code=ErrorCode.DISK_UNUSABLE,
        message=f"The worker's disk was read-only or failed at step {step}.",
        category=Category.TRANSIENT,
        retryable=True,
        hint="Look at the kernel's log of that host; the last checkpoint that was sent is kept.",
    )


def _process_lost(step: int) -> Failure:
    """What the processes that are left can say of a run that lost one."""
    return Failure(
        code=ErrorCode.PROCESS_LOST,
        message=f"Another process of the run went away at step {step}.",
        category=Category.WORKER_LOST,
        retryable=True,
        hint="The job is tried again from its last checkpoint.",
    )


def _is_process_lost(error: BaseException) -> bool:
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and bool(_CONNECTION_LOST.search(str(error)))
    )


def _out_of_memory(step: int) -> Failure:
    return Failure(
        code=ErrorCode.OUT_OF_MEMORY,
        message=f"Memory ran out at step {step}.",
        category=Category.OUT_OF_MEMORY,
        retryable=True,
        hint="Lower max_seq_length or the batch size, or let the planner choose the method.",
    )


def _disk_full(step: int) -> Failure:
    return Failure(
        code=ErrorCode.DISK_FULL,
        message=f"The worker's disk was full at step {step}.",
        category=Category.DISK_FULL,
        retryable=True,
        hint="Free space in the worker's work directory; the last complete checkpoint is kept.",
    )


_KINDS: Final[tuple[tuple[Callable[[BaseException], bool], Callable[[int], Failure]], ...]] = (
    (is_out_of_memory, _out_of_memory),
    (is_disk_full, _disk_full),
    (is_disk_unusable, _disk_unusable),
    (_is_process_lost, _process_lost),
)
