"""A stream for readers of any speed, but not for one who has stopped reading."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

log = structlog.get_logger(__name__)


class PatientStream(StreamingResponse):
    """Gives up when nothing was read for so long; what makes the content is closed, and with it what it holds."""

    def __init__(
        self, content: AsyncGenerator[bytes, None], *, reader_seconds: float, headers: Mapping[str, str]
    ) -> None:
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self._content = content
        self._reader_seconds = reader_seconds

    async def stream_response(self, send: Send) -> None:
        """Send until the end, or until the reader's time is up."""

        async def in_time(message: Message) -> None:
            async with asyncio.timeout(self._reader_seconds):
                await send(message)

        try:
            await super().stream_response(in_time)
        except TimeoutError:
            log.warning("inference.reader_stopped", seconds=self._reader_seconds)
        finally:
            await self._content.aclose()
