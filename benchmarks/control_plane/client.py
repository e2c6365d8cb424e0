"""A small HTTP/1.1 client on one connection: on two cores a general one would cost more than what it measures."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Connection:
    """One connection that stays open. Use as a context manager."""

    def __init__(self, host: str, port: int, *, key: str) -> None:
        self._host, self._port, self.key = host, port, key

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        return self

    async def __aexit__(self, *_reason: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, *, body: bytes = b"", **headers: str) -> Reply:
        """Send a request and wait for its answer."""
        await self.send(method, path, body=body, **headers)
        status, found = await self.head()
        length = int(found.get(b"content-length", b"0"))
        return Reply(status, found, await self._reader.readexactly(length) if length else b"")

    async def send(self, method: str, path: str, *, body: bytes = b"", **headers: str) -> None:
        """Send a request."""
        lines = [f"{method} {path} HTTP/1.1", "host: bench", f"authorization: Bearer {self.key}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"content-length: {len(body)}", "content-type: application/json"] if body else []
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self._writer.drain()

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Status and headers of the next answer."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        pairs = (line.partition(b": ") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs}

    async def line(self) -> bytes:
        """The next line of a body that goes on; empty when it has ended."""
        return await self._reader.readline()
