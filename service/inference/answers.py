"""An engine's answer as the client gets it: under the name that it asked for, its tokens counted, its end clear."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import httpx2
from pydantic_core import from_json, to_json

from tunesmith.service.inference.gateways import Begun, silent
from tunesmith.service.inference.used import Used
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound, TunesmithError, Unserved
from tunesmith.tuning.inference_messages import Answering
from tunesmith.tuning.values.json_objects import Json

_DONE = b"[DONE]"
_RETRY_AFTER_SECONDS = 2.0


async def whole(begun: Begun, *, model: str) -> Json:
    """An answer in one piece.

    Raises:
        TunesmithError: it is a refusal, or it broke.
    """
    content = await _content(begun)
    if begun.head.status != 200:
        raise _refusal(begun.head, content)
    try:
        answer = from_json(content)
    except ValueError as error:
        raise silent(begun.served_by, error) from error
    return {**answer, "model": model}


async def refused(begun: Begun) -> TunesmithError:
    """An answer that is a refusal."""
    try:
        return _refusal(begun.head, await _content(begun))
    except Unserved as broken:
        return broken


def used(answer: Json) -> Used:
    """What it counts."""
    usage = answer.get("usage") or {}
    return Used(
        requests=1,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
    )


async def events(
    begun: Begun, *, model: str, wants_usage: bool, count: Callable[[Used], None]
) -> AsyncGenerator[bytes, None]:
    """The events of an answer that streams. One that breaks off ends with an error event and without `[DONE]`."""
    has_ended, counted = False, Used(requests=1)
    try:
        async for event in _split(begun.pieces):
            data = _data(event)
            if data is None:
                yield event
                continue
            has_ended = data == _DONE
            if has_ended:
                yield event
                break
            chunk = from_json(data)
            if "error" in chunk:
                yield error_event(_error_of(chunk["error"], status=503))
                has_ended = True
                break
            if chunk.get("usage"):
                counted = used(chunk)
            if wants_usage or chunk.get("choices"):
                yield b"data: " + to_json({**chunk, "model": model}) + b"\n\n"
        if not has_ended:
            yield error_event(_broken_off(begun))
    except (httpx2.TransportError, httpx2.StreamError, ValueError) as error:
        yield error_event(silent(begun.served_by, error))
    finally:
        count(counted)
        await begun.close()


def error_event(error: TunesmithError) -> bytes:
    """The last event of an answer that breaks off."""
    kind = "server_error" if error.http_status >= 500 else "invalid_request_error"
    body = {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code,
        "hint": error.hint,
    }
    return b"data: " + to_json({"error": body}) + b"\n\n"


async def _content(begun: Begun) -> bytes:
    try:
        return b"".join([piece async for piece in begun.pieces])
    except (httpx2.TransportError, httpx2.StreamError) as error:
        raise silent(begun.served_by, error) from error
    finally:
        await begun.close()


async def _split(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in pieces:
        *found, rest = (rest + piece.replace(b"\r\n", b"\n")).split(b"\n\n")
        for event in found:
            yield event + b"\n\n"


def _data(event: bytes) -> bytes | None:
    """The data of an event; None of a comment."""
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def _refusal(head: Answering, content: bytes) -> TunesmithError:
    try:
        error = from_json(content)
        error = error["error"] if isinstance(error, dict) and isinstance(error.get("error"), dict) else error
    except ValueError:
        error = {}
    return _error_of(error, status=head.status, retry_after_seconds=head.retry_after_seconds)


def _error_of(error: Any, *, status: int, retry_after_seconds: float | None = None) -> TunesmithError:
    """An engine's or a gateway's error as one of ours, under its own code."""
    known = error if isinstance(error, dict) else {}
    message = str(known.get("message") or "The engine refuses the request without a reason.")
    code, param, hint = (
        text if isinstance(text := known.get(name), str) else None for name in ("code", "param", "hint")
    )
    found: TunesmithError
    if status >= 500 or status == 429:
        seconds = retry_after_seconds or _RETRY_AFTER_SECONDS
        found = Unserved(message, code=ErrorCode.ENGINE_LOST, param=param, hint=hint, retry_after_seconds=seconds)
    elif status == 404:
        found = NotFound(message, code=ErrorCode.MODEL_NOT_FOUND, param=param, hint=hint)
    else:
        found = InvalidRequest(message, code=ErrorCode.ENGINE_REFUSED, param=param, hint=hint)
    return found.with_code(code) if code else found


def _broken_off(begun: Begun) -> Unserved:
    return Unserved(f"The answer of {begun.served_by} broke off.", code=ErrorCode.INFERENCE_WORKER_SILENT)
