"""Every error as the API's error object: `{"error": {"message", "type", "param", "code", "hint"}}`."""

import errno
from typing import cast

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException

from tunesmith.service.database.transactions import is_away
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import (
    CannotReproduce,
    InvalidRequest,
    LeaseLost,
    LimitReached,
    NotFound,
    Outdated,
    TunesmithError,
    Unserved,
)

log = structlog.get_logger(__name__)

_DATABASE_DISK_FULL = "53100"  # PostgreSQL's code for it
_FREE_SPACE = "Its operator has to free space; what was answered with 200 is safe."
_LOOK = "Its operator has to look at that disk and at the kernel's log; what was answered with 200 is safe."
_WORKERS_PORT = "Workers have a port of their own here: give its address as TUNESMITH_URL."
_TYPES = {401: "invalid_request_error", 403: "permission_error", 409: "conflict_error", 429: "rate_limit_error"}


class BodyTooSlow(InvalidRequest):
    """The body did not arrive in time."""

    code = ErrorCode.REQUEST_TIMEOUT
    http_status = 408


class WrongHost(InvalidRequest):
    """The request names a host that this service does not answer for."""

    code = ErrorCode.HOST_NOT_ALLOWED
    http_status = 421


class NoSpace(TunesmithError):
    """A disk of the service is full; there may be room again later."""

    code = ErrorCode.DISK_FULL
    http_status = 503


class DiskUnusable(TunesmithError):
    """A disk of the service is read-only or fails."""

    code = ErrorCode.DISK_UNUSABLE
    http_status = 503


class UnknownUrl(NotFound):
    """The API has no such path."""

    code = ErrorCode.UNKNOWN_URL


class MethodNotAllowed(InvalidRequest):
    """The path does not take this method."""

    code = ErrorCode.METHOD_NOT_ALLOWED
    http_status = 405


class NotReady(TunesmithError):
    """Something this service needs is away for the moment; trying again soon will help."""

    code = ErrorCode.SERVICE_UNAVAILABLE
    http_status = 503


_BY_STATUS: dict[int, type[TunesmithError]] = {404: UnknownUrl, 405: MethodNotAllowed}


def install(app: FastAPI) -> None:
    """Register the handlers. What none of them expects ends in `service.web.middleware` as a 500 without a trace."""
    app.add_exception_handler(TunesmithError, _on_known)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_parameter)
    app.add_exception_handler(SQLAlchemyError, _on_database)
    app.add_exception_handler(OSError, _on_disk)


def error_response(error: TunesmithError) -> JSONResponse:
    """The response for one of our own errors, with the headers that tell a client whether to try again."""
    headers = {}
    is_final = isinstance(error, LeaseLost | CannotReproduce | Outdated)
    if error.http_status in (429, 503) or (error.http_status == 409 and not is_final):
        headers["retry-after"] = "1"
    if isinstance(error, Unserved):
        headers["retry-after"] = f"{error.retry_after_seconds:.0f}"
    if isinstance(error, LimitReached):  # of a project: until one of its jobs has started or ended
        headers["retry-after"] = "30"
    if is_final:
        headers["x-should-retry"] = "false"
    body = _body(error.http_status, error.message, code=error.code, param=error.param, hint=error.hint)
    return JSONResponse(body, status_code=error.http_status, headers=headers)


def _body(
    status: int, message: str, *, code: str, param: str | None = None, hint: str | None = None
) -> dict[str, object]:
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code, "hint": hint}}


async def _on_known(_request: Request, error: Exception) -> JSONResponse:
    return error_response(cast(TunesmithError, error))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    error = cast(HTTPException, error)
    message = f"{error.detail}: {request.method} {request.url.path}"
    kind = _BY_STATUS.get(error.status_code, InvalidRequest)
    hint = _WORKERS_PORT if error.status_code == 404 and request.url.path.startswith("/internal/") else None
    body = _body(error.status_code, message, code=kind.code, hint=hint)
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _on_parameter(_request: Request, error: Exception) -> JSONResponse:
    """A query or path parameter of the wrong type; bodies are read by `service.web.bodies`."""
    first = cast(RequestValidationError, error).errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    message = f"Invalid value for {param!r}: {first['msg']}."
    return error_response(InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param=param))


async def _on_database(_request: Request, error: Exception) -> JSONResponse:
    """A database that is away or busy is 503, which clients try again; text it cannot store must change."""
    if isinstance(error, DataError):
        return error_response(InvalidRequest("The request holds text that cannot be stored, such as a NUL character."))
    if getattr(getattr(error, "orig", None), "sqlstate", None) == _DATABASE_DISK_FULL:
        return error_response(NoSpace("The database's disk is full.", hint=_FREE_SPACE))
    if is_away(error):
        log.warning("database.unavailable", error=type(error).__name__)
        return error_response(NotReady("The database is busy or restarting. Try again in a moment."))
    raise error


async def _on_disk(_request: Request, error: Exception) -> JSONResponse:
    """A disk that is full or unusable where uploads are put aside; any other is a fault."""
    number = cast(OSError, error).errno
    if number in (errno.ENOSPC, errno.EDQUOT):
        log.error("disk.full")
        return error_response(NoSpace("The disk where uploads are put aside is full.", hint=_FREE_SPACE))
    if number in (errno.EROFS, errno.EIO):
        log.error("disk.unusable")
        return error_response(DiskUnusable("The disk where uploads are put aside is read-only or fails.", hint=_LOOK))
    raise error
