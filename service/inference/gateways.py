"""Talking to the gateways of inference workers: frames in, the head of an answer and its bytes out."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx2
import structlog
from pydantic import ValidationError

from tunesmith.service.database.inference_tables import InferenceWorker
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError, Unserved
from tunesmith.tuning.inference_messages import Answering, Generation, Waiting

log = structlog.get_logger(__name__)

Tell = Callable[[str], None]

_CONNECT_SECONDS = 3.0
_LONGEST_FRAME_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An answer whose bytes are still to come. Whoever has it closes it."""

    head: Answering
    served_by: str
    pieces: AsyncIterator[bytes]
    response: httpx2.Response

    async def close(self) -> None:
        """Want no more of it."""
        await self.response.aclose()


class Gateways:
    """One of a process; connections are kept and shared."""

    def __init__(self, *, silence_seconds: float) -> None:
        self._timeout = httpx2.Timeout(silence_seconds, connect=_CONNECT_SECONDS, pool=None)
        self._made: httpx2.AsyncClient | None = None

    async def ask(self, worker: InferenceWorker, generation: Generation, *, tell: Tell) -> Begun:
        """Wait until the answer begins, however long, as long as the gateway says that it lives.

        `tell` hears now and then what is waited for.

        Raises:
            Unserved: it does not answer, or not for now.
        """
        served_by = f"{worker.engine}/{worker.hostname}"
        request = self._client.build_request(
            "POST",
            f"{worker.url.rstrip('/')}/generate",
            content=generation.model_dump_json(),
            headers={"authorization": f"Bearer {worker.secret}", "content-type": "application/json"},
        )
        try:
            response = await self._client.send(request, stream=True)
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise silent(served_by, error) from error
        try:
            return await _begun(response, served_by=served_by, tell=tell)
        except BaseException as error:
            await response.aclose()
            if isinstance(error, httpx2.TransportError | httpx2.StreamError):
                raise silent(served_by, error) from error
            raise

    async def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            await self._made.aclose()

    @property
    def _client(self) -> httpx2.AsyncClient:
        """Made when it is first needed: it reads certificates, and most processes never ask anybody."""
        if self._made is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=4.0)
            # trust_env off: no proxy of this host may see prompts and secrets on their way
            self._made = httpx2.AsyncClient(timeout=self._timeout, limits=limits, trust_env=False)
        return self._made


def silent(served_by: str, error: Exception) -> Unserved:
    """A gateway that is not there, or no more."""
    log.warning("gateway.silent", worker=served_by, reason=f"{type(error).__name__}: {error}"[:200])
    return Unserved(
        f"The inference worker {served_by} does not answer ({type(error).__name__}).",
        code=ErrorCode.INFERENCE_WORKER_SILENT,
    )


async def _begun(response: httpx2.Response, *, served_by: str, tell: Tell) -> Begun:
    if response.status_code != 200:
        raise _refused(response.status_code, await response.aread(), served_by=served_by)
    pieces, rest = response.aiter_bytes(), b""
    async for piece in pieces:
        rest += piece
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            frame = _read_frame(line)
            if isinstance(frame, Waiting):
                tell(frame.waiting)
            elif frame is not None:
                return Begun(head=frame, served_by=served_by, pieces=_after(rest, pieces), response=response)
        if len(rest) > _LONGEST_FRAME_BYTES:
            break
    raise Unserved(f"The inference worker {served_by} broke off.", code=ErrorCode.INFERENCE_WORKER_SILENT)


def _read_frame(line: bytes) -> Answering | Waiting | None:
    """None for something else, that a newer worker says."""
    for kind in (Answering, Waiting):
        with suppress(ValidationError):
            return kind.model_validate_json(line, extra="ignore")
    return None


def _refused(status: int, body: bytes, *, served_by: str) -> TunesmithError:
    """The gateway itself refuses. A secret that it does not take is that of another start of it."""
    log.warning("gateway.refused", worker=served_by, status=status, body=body[:200].decode(errors="replace"))
    if status == 503 and b"inference_line_full" in body:
        return Unserved(
            f"As many requests wait at the inference worker {served_by} as it takes.",
            code=ErrorCode.INFERENCE_LINE_FULL,
        )
    return Unserved(
        f"The inference worker {served_by} does not take the request ({status}).",
        code=ErrorCode.INFERENCE_WORKER_SILENT,
    )


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece
