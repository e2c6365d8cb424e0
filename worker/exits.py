"""What the exit code of a process says, where the process said nothing else: the same words for one and for several."""

import signal

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure


def killed(exit_code: int) -> Failure:
    """A trainer, or one process of it, whose negative exit code is the signal that ended it."""
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = "The kernel does this when memory runs out; an operator may have done it too." if name == "SIGKILL" else None
    return Failure(
        code=ErrorCode.TRAINER_KILLED,
        message=f"The trainer was ended by {name} before it had finished.",
        category=Category.WORKER_LOST,
        retryable=True,
        hint=hint,
        signal=name,
    )


def crashed(exit_code: int) -> Failure:
    """A trainer, or one process of it, that ended by itself without a word."""
    return Failure(
        code=ErrorCode.TRAINER_CRASHED,
        message=f"The trainer exited with code {exit_code} and left no result.",
        category=Category.INTERNAL,
        retryable=True,
        hint="The end of its log says where.",
    )
