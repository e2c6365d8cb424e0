"""Queries about stored bytes."""

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Blob
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.messages import FileRef


async def record(session: AsyncSession, *, sha256: str, length_bytes: int) -> None:
    """Note that the store has these bytes. Two uploads of the same bytes are one blob."""
    row = insert(Blob).values(sha256=sha256, bytes=length_bytes)
    await session.execute(row.on_conflict_do_nothing())


async def missing(session: AsyncSession, files: Iterable[FileRef]) -> list[str]:
    """The hashes among `files` that the store lacks, in order and without repeats."""
    wanted = list(dict.fromkeys(file.sha256 for file in files))
    found = set((await session.execute(select(Blob.sha256).where(Blob.sha256.in_(wanted)))).scalars())
    return [sha256 for sha256 in wanted if sha256 not in found]


async def require(session: AsyncSession, files: Iterable[FileRef]) -> None:
    """Refuse a set of files that is not completely in the store.

    Raises:
        InvalidRequest: naming the first missing file.
    """
    files = tuple(files)
    absent = set(await missing(session, files))
    for file in files:
        if file.sha256 in absent:
            raise InvalidRequest(
                f"{file.name} ({file.sha256}) is not in the store.",
                code=ErrorCode.BLOB_MISSING,
                param="files",
                hint="Send its bytes first, then report the set again.",
            )
