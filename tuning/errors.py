"""The error tree. Each error has a stable code, a category and says whether trying again can help.

TunesmithError
├── InvalidRequest            the caller must change something         400
│   ├── InvalidTransition     the job is not in a state that allows it 400
│   ├── InvalidTrainingFile   a row cannot be trained on               400
│   ├── DoesNotFit            no known hardware can hold the job       400
│   └── TooLarge              the body is too long                     413
├── NotFound                                                           404
├── Unauthenticated                                                    401
├── Forbidden                                                          403
├── LimitReached              a project has as much as it may        429
├── Unserved                  no engine can answer for now           503
├── LeaseLost                 another attempt owns the job             409
├── Conflict                  the same request is in flight            409
├── Outdated                what the request expects is no longer so 409
├── CannotReproduce           a run cannot be repeated as it was       409
└── JobFailure                why a run ended badly; stored on the job, never an HTTP status

Errors cross process boundaries as (code, message, param, hint, category, retryable), see `Failure`. They stay picklable
because task queues pickle exceptions. What each code means is in `codes.py`.
"""

from enum import StrEnum
from typing import Any, Self

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.values.base import Value


class Category(StrEnum):
    """Who can do something about a failure, and so whether a retry is worth a GPU."""

    USER_ERROR = "user_error"  # bad data or settings: never retried
    OUT_OF_MEMORY = "out_of_memory"  # did not fit, even smaller: retried, on whichever machine is next
    TRANSIENT = "transient"  # may go away: retried
    WORKER_LOST = "worker_lost"  # the machine, not the job: retried
    STALLED = "stalled"  # the trainer showed nothing for far longer than predicted: retried
    DISK_FULL = "disk_full"  # the machine, not the job: retried
    INTERNAL = "internal"  # our bug: retried within the bound, then shown


class Failure(Value):
    """Why a job or an attempt ended badly, as stored and as shown. `signal` names the one that ended the trainer."""

    code: str  # an `ErrorCode`, but a worker of another version may send one that this version does not know
    """A stable word for programs."""
    message: str
    """What happened, with the numbers."""
    param: str | None = None
    """The field of the request that must change; null where none would help."""
    category: Category = Category.INTERNAL
    """Who can do something about it."""
    retryable: bool = False
    """Whether the same job may succeed when it is tried again."""
    hint: str | None = None
    """What to do next."""
    log_tail: str | None = None
    """The last lines of the trainer's log."""
    signal: str | None = None
    """Name of the signal that ended the trainer, if one did."""
    rank: int | None = None
    """Of several processes, the number of the one that failed first."""


class TunesmithError(Exception):
    """Base of every error this project raises on purpose. `code` is an `ErrorCode` unless another process gave it."""

    code: str = ErrorCode.INTERNAL_ERROR
    http_status = 500

    def __init__(
        self, message: str, *, code: ErrorCode | None = None, param: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.hint = hint

    def with_code(self, code: str) -> Self:
        """This error under the code that another process gave it, which this version may not know."""
        self.code = code
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.code, self.param, self.hint))


def _rebuild(
    kind: type[TunesmithError], message: str, code: str, param: str | None, hint: str | None
) -> TunesmithError:
    error = kind.__new__(kind)
    TunesmithError.__init__(error, message, param=param, hint=hint)
    return error.with_code(code)


class InvalidRequest(TunesmithError):
    """Something in the request must change before it can work."""

    code = ErrorCode.INVALID_REQUEST
    http_status = 400


_PASSIVE = {"cancel": "be cancelled", "pause": "be paused", "resume": "be resumed"}


class InvalidTransition(InvalidRequest):
    """The job is not in a state that allows this."""

    code = ErrorCode.INVALID_STATE

    def __init__(self, *, state: str, transition: str) -> None:
        is_so = f"has {state}" if state in ("succeeded", "failed") else f"is {state}"
        super().__init__(f"A job that {is_so} cannot {_PASSIVE.get(transition, transition)}.", param="status")


class InvalidTrainingFile(InvalidRequest):
    """The training or validation file cannot be used."""

    code = ErrorCode.INVALID_TRAINING_FILE


class DoesNotFit(InvalidRequest):
    """No worker class known to this service could ever hold the job as asked."""

    code = ErrorCode.PLAN_DOES_NOT_FIT


class TooLarge(InvalidRequest):
    """The body is larger than this service accepts here."""

    code = ErrorCode.REQUEST_TOO_LARGE
    http_status = 413


class NotFound(TunesmithError):
    """No such object, or not yours."""

    code = ErrorCode.NOT_FOUND
    http_status = 404


class Unauthenticated(TunesmithError):
    """No valid key."""

    code = ErrorCode.INVALID_API_KEY
    http_status = 401


class HubFailed(TunesmithError):
    """The model hub could not be reached, does not have it, or may not give it."""

    code = ErrorCode.HUB_FAILED
    http_status = 503

    def __init__(self, message: str, *, http_status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.http_status = http_status


class Forbidden(TunesmithError):
    """A valid key that may not do this."""

    code = ErrorCode.PERMISSION_DENIED
    http_status = 403


class LimitReached(TunesmithError):
    """The project has as many as it may have at a time; later there may be room."""

    code = ErrorCode.LIMIT_REACHED
    http_status = 429


class Unserved(TunesmithError):
    """No engine can answer this now; asked again after so many seconds, one may."""

    code = ErrorCode.NO_INFERENCE_WORKER
    http_status = 503

    def __init__(self, message: str, *, retry_after_seconds: float = 2.0, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_seconds = retry_after_seconds


class LeaseLost(TunesmithError):
    """Another attempt owns the job: stop, and write nothing more."""

    code = ErrorCode.LEASE_LOST
    http_status = 409


class Conflict(TunesmithError):
    """The same request is being handled right now."""

    code = ErrorCode.CONFLICT
    http_status = 409


class Outdated(TunesmithError):
    """What the request expects has changed meanwhile; the message says to what."""

    http_status = 409


class CannotReproduce(TunesmithError):
    """Something that a finished run was made of is not as it was; asking again changes nothing."""

    http_status = 409


class JobFailure(TunesmithError):
    """A run that ended badly. Carries the `Failure` that is stored on the job."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, param=failure.param, hint=failure.hint)
        self.code = failure.code
        self.failure = failure

    def __reduce__(self) -> tuple[Any, ...]:
        return (JobFailure, (self.failure,))


def brief(error: BaseException) -> str:
    """What happened in a line of a log: the kind of error and its message, at most 200 characters."""
    return f"{type(error).__name__}: {error}"[:200]
