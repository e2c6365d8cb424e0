"""What the engine does not do, in the words that its client gets."""

from tunesmith.tuning.codes import ErrorCode


class Refusal(Exception):
    """A request that is not answered. `param` is the field at fault; `retry_after_seconds` says when to ask again."""

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = ErrorCode.INVALID_VALUE,
        param: str | None = None,
        http_status: int = 400,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param
        self.http_status, self.retry_after_seconds = http_status, retry_after_seconds
