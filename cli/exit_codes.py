"""The one table of exit codes, so that a pipeline can tell a failed job from a network problem."""

from enum import IntEnum
from typing import TYPE_CHECKING

from tunesmith.tuning.state import JobState

if TYPE_CHECKING:
    from tunesmith.tuning.errors import TunesmithError


class ExitCode(IntEnum):
    """What every verb exits with. `logs -f`, `watch` and `submit --wait` share them."""

    SUCCEEDED = 0
    UNEXPECTED = 1  # a bug here, or an answer of the server that makes no sense
    USAGE = 2  # the command line itself is wrong
    JOB_FAILED = 3
    JOB_CANCELLED = 4
    TIMED_OUT = 5  # --timeout was reached; the job goes on
    GATE = 6  # the job succeeded, but its result is not good enough, or not the same as the one it repeats
    REJECTED = 7  # the request is invalid, or nothing could ever run it
    NOT_ALLOWED = 8  # no key, a wrong key, or a key that may not do this
    UNREACHABLE = 9
    NOT_FOUND = 10
    INTERRUPTED = 130  # Ctrl-C: this command stopped, the job goes on


_BY_STATE: dict[str, ExitCode] = {
    JobState.SUCCEEDED: ExitCode.SUCCEEDED,
    JobState.FAILED: ExitCode.JOB_FAILED,
    JobState.CANCELLED: ExitCode.JOB_CANCELLED,
}

_BY_HTTP_STATUS = {
    400: ExitCode.REJECTED,
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.REJECTED,
    413: ExitCode.REJECTED,
    429: ExitCode.UNREACHABLE,
    502: ExitCode.UNREACHABLE,
    503: ExitCode.UNREACHABLE,
    504: ExitCode.UNREACHABLE,
}


def for_job(state: str) -> ExitCode:
    """The code that tells how a finished job ended; a job that is not finished is no failure."""
    return _BY_STATE.get(state, ExitCode.SUCCEEDED)


def for_error(error: "TunesmithError") -> ExitCode:
    """The code for an error that ended a verb."""
    return _BY_HTTP_STATUS.get(error.http_status, ExitCode.UNEXPECTED)
