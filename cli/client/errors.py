"""How a call fails: the service said no, or nothing answered."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from tunesmith.cli.connection import Connection, data_dir_option
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.values.json_objects import Json

_HINTS = {
    401: "the key is missing, wrong or revoked; `tunesmith env` shows the one that `tunesmith up` made",
    403: "this key's role does not allow it; an admin key does",
}


class ServiceError(TunesmithError):
    """The service answered with an error. Its code, field and hint are kept; `http_status` is what it sent."""

    def __init__(self, message: str, *, http_status: int, request_id: str | None = None, **details: str | None) -> None:
        super().__init__(message, param=details.get("param"), hint=details.get("hint"))
        self.code = details.get("code") or self.code
        self.http_status = http_status
        self.request_id = request_id


class Unreachable(TunesmithError):
    """Nothing answers at the address, or it stopped answering."""

    code = ErrorCode.SERVICE_UNREACHABLE
    http_status = 503


def service_error(answer: httpx2.Response) -> ServiceError:
    """The error that an answer is, whatever its shape."""
    try:
        body = answer.json()["error"]
        message = str(body["message"])
    except (ValueError, KeyError, TypeError):
        body, message = {}, f"The service answered {answer.status_code} {answer.reason_phrase} without saying why."
    return ServiceError(
        message,
        http_status=answer.status_code,
        request_id=answer.headers.get("x-request-id"),
        code=body.get("code"),
        param=body.get("param"),
        hint=body.get("hint") or _HINTS.get(answer.status_code),
    )


def error_in_stream(error: Json) -> ServiceError:
    """The error that a stream of lines ended with."""
    details = {name: error.get(name) for name in ("code", "param", "hint")}
    return ServiceError(str(error.get("message")), http_status=503, **details)


@contextmanager
def explained(connection: Connection) -> Iterator[None]:
    """Turn a broken connection into words about this service.

    Raises:
        Unreachable: nothing answers, or it stopped answering.
    """
    try:
        yield
    except httpx2.TransportError as error:
        raise _unreachable(connection, error) from error


def _unreachable(connection: Connection, error: httpx2.TransportError) -> Unreachable:
    if connection.data_dir is not None and isinstance(error, httpx2.ConnectError):
        option = data_dir_option(connection.data_dir)
        return Unreachable(
            f"The service in {connection.data_dir} is gone: nothing answers at {connection.base_url}.",
            hint=f"start it again with `tunesmith up{option}`: jobs, files and models are still there",
        )
    return Unreachable(
        f"No answer from {connection.base_url}: {str(error).rstrip('.') or type(error).__name__}.",
        hint="is it running? start it with `tunesmith up`, or look at `tunesmith doctor`",
    )
