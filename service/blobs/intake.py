"""Writing bytes into the store. Each upload is announced first, so that nobody deletes the bytes under its hands."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import BinaryIO

from tunesmith.service.blobs import store
from tunesmith.service.blobs.objects import BlobStore, check_name
from tunesmith.service.database.transactions import Database

_LONGEST_UPLOAD = timedelta(hours=12)  # well within the time for which an announced upload is kept


async def write_stream(
    database: Database, blobs: BlobStore, sha256: str, stream: AsyncIterator[bytes], *, limit_bytes: int
) -> int:
    """Store a stream under its promised hash and return its length; one that breaks the promise leaves nothing.

    Raises:
        InvalidRequest: the bytes do not have that hash.
        TooLarge: there are more of them than the limit.
        TimeoutError: they took half a day.
    """
    await _announce(database, check_name(sha256))
    async with asyncio.timeout(_LONGEST_UPLOAD.total_seconds()):
        return await blobs.write_stream(sha256, stream, limit_bytes=limit_bytes)


async def write_file(database: Database, blobs: BlobStore, file: BinaryIO, *, sha256: str) -> None:
    """Store a local file whose hash is known, from its start."""
    await _announce(database, sha256)
    await blobs.write_file(file, sha256=sha256)


async def write_bytes(database: Database, blobs: BlobStore, data: bytes) -> str:
    """Store a small value and return its hash."""
    await _announce(database, hashlib.sha256(data).hexdigest())
    return await blobs.write_bytes(data)


async def _announce(database: Database, sha256: str) -> None:
    async with database.transaction() as session:
        await store.announce(session, sha256)
