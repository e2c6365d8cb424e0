"""Queries about stored bytes."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, SQLColumnExpression, delete, func, not_, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Artifact, Blob, Checkpoint, File, Model, UploadPart
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.messages import FileRef

_A_DAY_FROM_NOW = text("now() + interval '1 day'")
_NOW = func.now()
_HALF_A_DAY_FROM_NOW = _NOW + text("interval '12 hours'")


async def announce(session: AsyncSession, sha256: str) -> None:
    """Before an upload: for a day nobody deletes bytes with this hash. Waits for whoever is deleting them just now."""
    row = insert(Blob).values(sha256=sha256, bytes=0, is_stored=False, kept_until=_A_DAY_FROM_NOW)
    kept = {"kept_until": _A_DAY_FROM_NOW}
    await session.execute(row.on_conflict_do_update(index_elements=[Blob.sha256], set_=kept))


async def record(session: AsyncSession, *, sha256: str, length_bytes: int) -> None:
    """After an upload: the store has these bytes. Two uploads of the same bytes are one blob."""
    stored = {"bytes": length_bytes, "is_stored": True, "kept_until": _A_DAY_FROM_NOW}
    row = insert(Blob).values(sha256=sha256, **stored)
    await session.execute(row.on_conflict_do_update(index_elements=[Blob.sha256], set_=stored))


async def missing(session: AsyncSession, files: Iterable[FileRef]) -> list[str]:
    """The hashes among `files` that the store lacks, in order and without repeats. The others are held for us.

    Raises:
        InvalidRequest: a file has another length than the bytes under its hash.
    """
    files = tuple(files)
    lengths = await _hold(session, {file.sha256 for file in files})
    for file in files:
        if lengths.get(file.sha256, file.bytes) != file.bytes:
            raise InvalidRequest(
                f"{file.name} ({file.sha256}) has {lengths[file.sha256]} bytes, not {file.bytes}.",
                code=ErrorCode.LENGTH_MISMATCH,
                param="files",
                hint="Report the length of the file as it was sent.",
            )
    return [sha256 for sha256 in dict.fromkeys(file.sha256 for file in files) if sha256 not in lengths]


async def require(session: AsyncSession, files: Iterable[FileRef]) -> None:
    """Refuse a set of files that is not completely in the store. Until the transaction ends nobody deletes them.

    Raises:
        InvalidRequest: naming the first missing file, or one whose length is another.
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


async def keep_referenced(session: AsyncSession, *, limit: int) -> int:
    """Bytes whose time is half over and that something refers to are kept for another day. Returns how many they were.

    So whatever a row refers to outlives that row by half a day: a backup copies the database first, and the bytes then.
    """
    due = _due(Blob.is_stored, _is_referenced(), limit=limit, before=_HALF_A_DAY_FROM_NOW)
    return await _update(session, due, kept_until=_A_DAY_FROM_NOW)


async def give_up_unreferenced(session: AsyncSession, *, limit: int) -> int:
    """Bytes whose time is over and that nothing refers to no longer count as stored. Returns how many they were.

    References are looked for again when the rows are locked: whoever refers to bytes locks their row first.
    """
    due = _due(Blob.is_stored, not_(_is_referenced()), limit=limit)
    locked = (await session.execute(due)).scalars().all()
    still = select(Blob.sha256).where(Blob.sha256.in_(locked), not_(_is_referenced()))
    return await _update(session, still, is_stored=False)


async def find_given_up(session: AsyncSession, *, limit: int) -> Sequence[str]:
    """Hashes of bytes that may be deleted, and of uploads that nobody finished within a day."""
    return (await session.execute(_due(not_(Blob.is_stored), limit=limit))).scalars().all()


async def lock_given_up(session: AsyncSession, sha256: str) -> bool:
    """Whether the bytes may still be deleted; if so nobody else can touch their row until the transaction ends."""
    due = _due(not_(Blob.is_stored), Blob.sha256 == sha256, limit=1)
    return (await session.execute(due)).scalar_one_or_none() is not None


async def forget(session: AsyncSession, sha256: str) -> None:
    """The bytes are gone."""
    await session.execute(delete(Blob).where(Blob.sha256 == sha256))


def _due(
    *conditions: SQLColumnExpression[bool], limit: int, before: SQLColumnExpression[datetime] = _NOW
) -> Select[str]:
    """Locked, without those that somebody uses or deletes just now."""
    return (
        select(Blob.sha256)
        .where(Blob.kept_until < before, *conditions)
        .order_by(Blob.kept_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


async def _update(session: AsyncSession, hashes: Select[str], **values: object) -> int:
    found = (await session.execute(hashes)).scalars().all()
    change = update(Blob).where(Blob.sha256.in_(found)).values(**values)
    await session.execute(change.execution_options(synchronize_session=False))
    return len(found)


async def _hold(session: AsyncSession, hashes: set[str]) -> dict[str, int]:
    """Length by hash of those that are stored; they stay so until the transaction ends."""
    query = (
        select(Blob.sha256, Blob.bytes)
        .where(Blob.sha256.in_(hashes), Blob.is_stored)
        .order_by(Blob.sha256)
        .with_for_update(read=True)
    )
    return {row.sha256: row.bytes for row in await session.execute(query)}


def _is_referenced() -> ColumnElement[bool]:
    one = func.jsonb_build_array(func.jsonb_build_object("sha256", Blob.sha256))
    # Counted, for of EXISTS the planner believes that it ends early, and reads the whole table instead of its index.
    counts = [select(func.count()).where(kind.files.contains(one)) for kind in (Model, Checkpoint, Artifact)]
    sets = [count.scalar_subquery() > 0 for count in counts]
    single = [select(kind.id).where(kind.blob_sha256 == Blob.sha256).exists() for kind in (File, UploadPart)]
    return or_(*single, *sets)
