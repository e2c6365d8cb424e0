"""A TCP proxy in front of a server, in a thread of its own, that a test makes cut, delay, swallow or reset."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass
class Faults:
    """What happens to what is on its way. Bytes that are swallowed are gone; the connection stays open."""

    delay_seconds: float = 0.0
    swallow_requests: bool = False
    swallow_answers: bool = False
    refuse: bool = False


class Proxy:
    """Listens on `port` of 127.0.0.1 while it is entered."""

    def __init__(self, target: int | Path) -> None:
        """Leads to a port of 127.0.0.1 or to a Unix socket."""
        self.faults = Faults()
        self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def lead_to(self, port: int) -> None:
        """Connect to another server from now on; connections that are open stay where they are."""
        self._target = port

    def cut(self) -> None:
        """End every connection, in order."""
        self._loop.call_soon_threadsafe(self._close_all)

    def reset(self) -> None:
        """End every connection with RST."""
        self._loop.call_soon_threadsafe(self._reset_all)

    async def _stop(self) -> None:
        self._server.close()
        self._reset_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _close_all(self) -> None:
        for writer in self._open:
            writer.close()

    def _reset_all(self) -> None:
        for writer in self._open:
            with contextlib.suppress(OSError):  # it is closed already
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.faults.refuse:
            to_client.close()
            return
        try:
            server, to_server = await self._connect()
        except OSError:  # nobody listens there at the moment
            to_client.close()
            return
        both = {to_client, to_server}
        self._open |= both
        with contextlib.suppress(OSError, asyncio.CancelledError):  # the latter when we stop
            await asyncio.gather(
                self._pass_on(client, to_server, is_swallowed=lambda: self.faults.swallow_requests),
                self._pass_on(server, to_client, is_swallowed=lambda: self.faults.swallow_answers),
            )
        for writer in both:
            writer.close()
        self._open -= both

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_swallowed: Callable[[], bool]
    ) -> None:
        while chunk := await source.read(_CHUNK_BYTES):
            await asyncio.sleep(self.faults.delay_seconds)
            if not is_swallowed():
                target.write(chunk)
                await target.drain()
        target.close()
