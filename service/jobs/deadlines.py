"""What a job's deadline means: at its passing the job fails, wherever it is, and a worker that has it stops."""

from datetime import datetime

from tunesmith.service.database.tables import Job
from tunesmith.tuning.api.requests.jobs import Deadline
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure, InvalidRequest
from tunesmith.tuning.values.deadline import moment_of


def deadline_at(asked: Deadline | None, *, at: datetime) -> datetime | None:
    """The moment that a request made at `at` names.

    Raises:
        InvalidRequest: it has passed.
    """
    if asked is None:
        return None
    moment = moment_of(asked, asked_at=at)
    if moment <= at:
        raise InvalidRequest(
            f"The deadline {moment:%Y-%m-%d %H:%M:%S} UTC has passed.",
            code=ErrorCode.INVALID_VALUE,
            param="tunesmith.deadline",
            hint="Send Unix seconds that are still to come, or a span from now on such as 6h.",
        )
    return moment


def was_stopped_by_deadline(job: Job) -> bool:
    """Whether what asked the worker to stop was the deadline. From then on a user's word makes no difference."""
    asked_at, deadline = job.cancel_requested_at, job.deadline_at
    return asked_at is not None and deadline is not None and asked_at >= deadline


def missed(job: Job) -> Failure:
    """Why such a job has failed."""
    return Failure(
        code=ErrorCode.DEADLINE_PASSED,
        message=f"It had not ended by its deadline, {job.deadline_at:%Y-%m-%d %H:%M:%S} UTC.",
        param="tunesmith.deadline",
        category=Category.USER_ERROR,
        hint="Give it a later deadline, a higher priority or a quicker worker.",
    )
