"""The HTTP server, which tells those who wait that it is going."""

import contextlib
import socket
import sys
from collections.abc import Callable

import uvicorn


class Server(uvicorn.Server):
    """Calls `on_shutdown` first: it waits for open requests to end, and some would wait for minutes."""

    def __init__(self, config: uvicorn.Config, *, on_shutdown: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_shutdown = on_shutdown

    def serve_to_the_end(self) -> None:
        """Until a signal ends it. Exits with 3 when it could not start, as uvicorn's own command does."""
        with contextlib.suppress(KeyboardInterrupt):
            self.run()
        if not self.started:
            sys.exit(3)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No new requests; the open ones end."""
        self._on_shutdown()
        await super().shutdown(sockets)
