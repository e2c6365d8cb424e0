"""The one shape of every error."""

from tunesmith.tuning.api.base import Answer


class ErrorDetails(Answer):
    """What went wrong and what to do."""

    message: str
    """What happened, for people, with the numbers."""
    type: str
    """`invalid_request_error`, `permission_error`, `conflict_error`, `rate_limit_error` or `server_error`."""
    param: str | None
    """The field of the request that must change; null where no single one would help."""
    code: str | None
    """A stable word for programs, such as `model_not_found`."""
    hint: str | None
    """What to do next."""


class ErrorAnswer(Answer):
    """The body of every answer with an error status."""

    error: ErrorDetails
    """The error."""
