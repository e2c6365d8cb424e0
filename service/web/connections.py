"""uvicorn's HTTP/1.1 connection with an end to its patience: it has none of its own for the head of a request."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class ImpatientConnection(H11Protocol):
    """Closed when a request's head is not complete so many seconds after the connection or the last answer.

    What is left of a body that was refused is no head either.
    """

    head_seconds = 10.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """A head that is complete stops the clock; the body's patience is `service.web.middleware`'s."""
        super().data_received(data)
        self._stop_when_head_is_there()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, unless it is there already."""
        super().on_response_complete()
        self._wait_for_head()
        self._stop_when_head_is_there()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._stop()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._stop()
        self._deadline = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_when_head_is_there(self) -> None:
        is_answered = self.cycle is not None and self.cycle.response_complete
        if self.conn.their_state is not h11.IDLE and not is_answered:
            self._stop()

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
