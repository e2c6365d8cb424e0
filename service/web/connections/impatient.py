"""uvicorn's HTTP/1.1 connection with bounds for the head of a request: it has none of its own for time or size."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tunesmith.service.web.connections.one_write import OneWrite

_HEAD_BYTES = 64 * 1024
_TOO_LARGE_TEXT = b"The head of a request has at most 64 KiB."
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: text/plain\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_TOO_LARGE_TEXT), _TOO_LARGE_TEXT)
)


class ImpatientConnection(HttpToolsProtocol):
    """Closed when a request's head is not complete so many seconds after the connection or the last answer.

    What is left of a body that was refused is no head either.
    """

    head_seconds = 10.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._is_in_head = True
        self._head_bytes = 0
        self._has_ended_message = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(OneWrite(transport, loop=self.loop))  # type: ignore[arg-type]
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Give a head up that grows beyond the limit: the parser keeps whatever comes.

        What came with the end of another request is not counted: most of it may be that one's body.
        """
        self._has_ended_message = False
        super().data_received(data)
        if not self._is_in_head or self._has_ended_message:
            return
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:  # or it would stand inside another answer
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins, maybe behind the body of the request before it."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """Stop the clock: the body's patience is `service.web.middleware`'s."""
        super().on_headers_complete()
        self._is_in_head = False
        self._stop()

    def on_message_complete(self) -> None:
        """Whatever follows is the next request's."""
        super().on_message_complete()
        self._has_ended_message = True

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, unless its head came with this one."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._stop()
        self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
