"""One HTTP call to the service, with every way it can go wrong turned into an answer, a wait, or an error of ours."""

import os
import ssl
from functools import cache
from typing import Any, TypeVar

import httpx2

from tunesmith.tuning.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LeaseLost,
    NotFound,
    TunesmithError,
    Unauthenticated,
)
from tunesmith.tuning.values.base import Value
from tunesmith.worker.transport.retry import Unavailable

Answer = TypeVar("Answer", bound=Value)

# The service closes idle connections after five seconds: closing ours first spares a failed send.
_LIMITS = httpx2.Limits(max_connections=16, max_keepalive_connections=8, keepalive_expiry=2.0)
_BY_STATUS: dict[int, type[TunesmithError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
}


def service_client(url: str, token: str, *, timeout: httpx2.Timeout | float) -> httpx2.Client:
    """Connections to a service, with a key or token. No proxy variable of the host sees it on its way."""
    headers = {"authorization": f"Bearer {token}"}
    return httpx2.Client(
        base_url=url, headers=headers, timeout=timeout, limits=_LIMITS, trust_env=False, verify=_authorities()
    )


@cache
def _authorities() -> ssl.SSLContext:
    """The usual ones, and what SSL_CERT_FILE names: a service may have certificates of an authority of its own."""
    context = httpx2.create_ssl_context(trust_env=False)
    if file := os.environ.get("SSL_CERT_FILE"):
        try:
            context.load_verify_locations(file)
        except OSError as error:  # ssl.SSLError is one
            message = f"{file} holds no certificates: {error.strerror or error}."
            raise InvalidRequest(message, param="SSL_CERT_FILE", hint="Name a PEM file, or unset it.") from error
    return context


def send(client: httpx2.Client, method: str, path: str, **options: Any) -> httpx2.Response:
    """Send a request and return a successful response.

    Raises:
        Unavailable: trying again later may work.
        LeaseLost: another attempt owns the job.
        TunesmithError: the service refuses, and will refuse again.
    """
    try:
        response = client.request(method, path, **options)
    except httpx2.TransportError as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
    raise_for(response)
    return response


def read_answer(kind: type[Answer], content: bytes) -> Answer:
    """Read an answer of the service, which may be newer than this worker: what it added is no reason to lose a job."""
    return kind.model_validate_json(content, extra="ignore")


def raise_for(response: httpx2.Response) -> None:
    """Raise what a response with an error status means; a streamed body must have been read."""
    if response.is_success:
        return
    error = _error_object(response)
    code = str(error.get("code") or "")
    message = str(error.get("message") or f"The service answered {response.status_code}.")
    if code == LeaseLost.code:
        raise LeaseLost(message)
    if response.status_code in {408, 425, 429} or response.status_code >= 500 or _asks_to_wait(response):
        raise Unavailable(f"{response.status_code} {message}", pause_seconds=_pause_seconds(response))
    kind = _BY_STATUS.get(response.status_code, InvalidRequest)
    raise kind(message, param=error.get("param"), hint=error.get("hint")).with_code(code or kind.code)


def _asks_to_wait(response: httpx2.Response) -> bool:
    return response.status_code == 409 and "retry-after" in response.headers


def _pause_seconds(response: httpx2.Response) -> float | None:
    try:
        return min(60.0, max(0.1, float(response.headers["retry-after"])))
    except (KeyError, ValueError):
        return None


def _error_object(response: httpx2.Response) -> dict[str, Any]:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
