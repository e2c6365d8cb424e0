"""Applications of a test's own, and how long they let others wait."""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn

from tests.waiting import eventually
from tunesmith.service.app import create_app
from tunesmith.service.settings import Settings
from tunesmith.service.web.connections.impatient import ImpatientConnection


async def ask(app: Any, *requests: tuple[str, str, dict[str, Any]], key: str) -> list[httpx2.Response]:
    headers = {"authorization": f"Bearer {key}"}
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
        answers = [await client.request(method, path, **options) for method, path, options in requests]
    await app.state.database.close()
    return answers


async def longest_gap(work: Awaitable[Any]) -> float:
    """For how many seconds of this process's computing the event loop came to nothing else while `work` was done.

    Other programs of a busy machine do not count: their time is not this process's.
    """
    gaps = [0.0]
    gc.freeze()  # as `service.serve` does; a collection before it would take seconds of a process with all tests in it

    async def tick() -> None:
        while True:
            before = time.process_time()
            await asyncio.sleep(0.001)
            gaps.append(time.process_time() - before)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await work
    await asyncio.sleep(0.002)
    ticker.cancel()
    gc.unfreeze()
    return max(gaps)


@contextmanager
def serving(settings: Settings, *, head_seconds: float = 10.0) -> Iterator[str]:
    """The application at an address of its own."""

    kind = type("Connection", (ImpatientConnection,), {"head_seconds": head_seconds})
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, http=kind))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, pause_seconds=0.01, what="a server")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def connected(url: str) -> socket.socket:
    """A bare connection to a server."""
    address = httpx2.URL(url)
    return socket.create_connection((address.host, address.port or 80), timeout=10)
