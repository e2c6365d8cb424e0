"""The HTTP server, which tells those who wait that it is going."""

import socket
from collections.abc import Callable

import uvicorn


class Server(uvicorn.Server):
    """Calls `on_shutdown` first: it waits for open requests to end, and some would wait for minutes."""

    def __init__(self, config: uvicorn.Config, *, on_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_shutdown = on_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new requests; the open ones end."""
        self._on_shutdown()
        await super().shutdown(sockets)
