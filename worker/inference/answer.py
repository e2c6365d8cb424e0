"""One answer on its way from an engine to the service: what is waited for, how it begins, its bytes, and its end.

An engine that ends in the middle is told as a last event of the stream; an answer in one piece is held back until it
is whole, so that one that breaks can still be refused as a whole.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import httpx2
import structlog

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError, Unserved
from tunesmith.tuning.inference_messages import LONGEST_SILENCE_SECONDS, Answering, Generation, ServedModel, Waiting
from tunesmith.tuning.values.json_objects import Json
from tunesmith.worker.inference.loaded import Asked, Loaded, Tell

log = structlog.get_logger(__name__)

_NOT_FOUND = 404
_COMMENT = b": still here\n\n"
_MOST_PIECES = 16  # that wait for a reader: one who does not read holds up his own engine request and nothing else
_LARGEST_ANSWER_BYTES = 32 * 1024**2

Using = Callable[[ServedModel, Tell], AbstractAsyncContextManager[Loaded]]


class AnswerStream:
    """The frames of one generation, see `tuning.inference_messages`."""

    def __init__(self, generation: Generation, *, using: Using, clock: Callable[[], float] = time.monotonic) -> None:
        self._generation, self._using, self._clock = generation, using, clock
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_PIECES)
        self._waits_for = "its turn"
        self._head: bytes | None = None
        self._has_begun = False  # for the reader: the head may still be among the pieces
        self._waited: list[str] = []
        self._began_at = clock()

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Never silent for long. Closing the iterator ends the engine's work on it."""
        producing = asyncio.create_task(self._produce())
        try:
            while True:
                try:
                    async with asyncio.timeout(LONGEST_SILENCE_SECONDS):
                        piece = await self._pieces.get()
                except TimeoutError:
                    piece = self._sign_of_life()
                if piece is None:
                    break
                self._has_begun = self._has_begun or piece is self._head
                yield piece
        finally:
            producing.cancel()
            await asyncio.gather(producing, return_exceptions=True)

    def _sign_of_life(self) -> bytes:
        return _COMMENT if self._has_begun else _line(Waiting(waiting=self._waits_for))

    def _tell(self, what: str) -> None:
        self._waits_for = what
        self._waited.append(what)

    async def _produce(self) -> None:
        try:
            async with self._using(self._generation.model, self._tell) as loaded:
                await self._pass_on(loaded)
        except TunesmithError as refusal:
            await self._refuse(refusal)
        except Exception:
            log.exception("answer.broken")
            await self._refuse(Unserved("The inference worker met an error of its own.", code=ErrorCode.ENGINE_LOST))
        await self._pieces.put(None)

    async def _pass_on(self, loaded: Loaded) -> None:
        self._waits_for = "the answer"
        body = {**self._generation.body, "model": loaded.name}
        try:
            async with loaded.engine.ask(self._generation.path, body) as response:
                is_dropped = response.status_code == _NOT_FOUND and loaded.reload is not None
                if is_dropped:
                    await response.aread()
                elif response.is_success and response.headers.get("content-type", "").startswith("text/event-stream"):
                    await self._pass_on_events(response)
                else:
                    await self._pass_on_whole(response)
            if is_dropped and loaded.reload is not None:
                await loaded.reload()
                await self._pass_on(replace(loaded, reload=None))
        except httpx2.TransportError as error:
            log.warning("engine.answer_broke", engine=loaded.name, reason=f"{type(error).__name__}: {error}")
            await self._refuse(_lost(loaded.engine))

    async def _pass_on_events(self, response: httpx2.Response) -> None:
        await self._begin(response.status_code, content_type="text/event-stream")
        async for events in whole_events(response.aiter_bytes()):
            await self._pieces.put(events)

    async def _pass_on_whole(self, response: httpx2.Response) -> None:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > _LARGEST_ANSWER_BYTES:
                raise Unserved("The engine's answer has no end.", code=ErrorCode.ENGINE_LOST)
        if response.status_code in (401, 403):
            raise Unserved("The engine does not take its own key.", code=ErrorCode.ENGINE_LOST)
        await self._begin(response.status_code, retry_after_seconds=_retry_after_seconds(response))
        await self._pieces.put(bytes(content))

    async def _begin(
        self, status: int, *, content_type: str = "application/json", retry_after_seconds: float | None = None
    ) -> None:
        waited = f"{self._clock() - self._began_at:.1f} s; {'; '.join(self._waited)}" if self._waited else None
        head = Answering(
            status=status, content_type=content_type, retry_after_seconds=retry_after_seconds, waited_for=waited
        )
        self._head = _line(head)
        await self._pieces.put(self._head)

    async def _refuse(self, refusal: TunesmithError) -> None:
        body = error_body(refusal)
        if self._head is not None:  # it has begun: the last event says why there are no more
            await self._pieces.put(b"data: " + json.dumps(body).encode() + b"\n\n")
            return
        await self._begin(refusal.http_status, retry_after_seconds=getattr(refusal, "retry_after_seconds", None))
        await self._pieces.put(json.dumps(body).encode())


async def whole_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes cut between events, so that a comment may go in between."""
    rest = b""
    async for piece in pieces:
        rest += piece
        end = rest.rfind(b"\n\n") + 2
        if end > 1:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def error_body(error: TunesmithError) -> Json:
    """As the API answers it."""
    kind = "server_error" if error.http_status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": str(error.code),
            "hint": error.hint,
        }
    }


def _lost(engine: Asked) -> Unserved:
    """Why an answer broke: a job came, or the engine ended by itself."""
    if engine.gave_way:
        message = "A job wanted the machine while the answer was written; training has the right of way."
        return Unserved(message, code=ErrorCode.TRAINING_COMES_FIRST, retry_after_seconds=15)
    return Unserved("The engine ended while it answered.", code=ErrorCode.ENGINE_LOST)


def _retry_after_seconds(response: httpx2.Response) -> float | None:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _line(message: Waiting | Answering) -> bytes:
    return message.model_dump_json().encode() + b"\n"
