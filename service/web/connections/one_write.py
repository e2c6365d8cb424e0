"""A transport that sends the head and the body of an answer together: uvicorn writes one after the other."""

import asyncio
from typing import Any


class OneWrite:
    """Keeps a piece back until the next one comes, or the event loop has its next turn; the rest is the transport's.

    Only one piece is ever kept, so that a stream is held up as soon as the transport says so.
    """

    def __init__(self, transport: asyncio.Transport, *, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._kept = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send behind what is kept, or keep it."""
        if self._kept:
            self._kept += data
            self._send()
        else:
            self._kept = data
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Close behind what was written."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._kept:
            data, self._kept = self._kept, b""
            self._transport.write(data)
