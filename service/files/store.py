"""Queries about files."""

from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, bindparam, func, not_, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import File, Job
from tunesmith.service.database.transactions import now
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import FileRef


async def find(session: AsyncSession, file_id: str, *, project: str, param: str = "id") -> File:
    """The file of this project, which `param` of the request names.

    Raises:
        NotFound: there is none, it was deleted, it has expired, or it is another project's.
    """
    file = (await session.execute(_FIND, {"file_id": file_id, "of_project": project})).scalar_one_or_none()
    if file is None:
        raise NotFound(f"No such File object: {file_id}", code=ErrorCode.FILE_NOT_FOUND, param=param)
    return file


async def find_with_bytes(session: AsyncSession, sha256: str, *, project: str) -> list[str]:
    """Ids of the project's usable files that hold these bytes, the oldest first."""
    query = (
        select(File.id)
        .where(File.project == project, File.blob_sha256 == sha256, File.status == "processed", *_alive())
        .order_by(File.id)
    )
    return list((await session.execute(query)).scalars())


async def find_newest(
    session: AsyncSession, *, project: str, filename: str | None = None, labels: dict[str, str] | None = None
) -> File | None:
    """The newest living training file of that name, or with all of these labels, whether its rows are good or not."""
    query = select(File).where(File.project == project, File.purpose == "fine-tune", *_alive())
    if filename is not None:
        query = query.where(File.filename == filename)
    if labels is not None:
        query = query.where(File.labels.contains(labels))
    return (await session.execute(query.order_by(File.id.desc()).limit(1))).scalar_one_or_none()


async def file_ref(session: AsyncSession, file_id: str) -> FileRef:
    """A training file as a worker fetches it. Deleting the file hides it from people, not from its jobs."""
    return bytes_of(await session.get_one(File, file_id), name="rows.jsonl")


def bytes_of(file: File, *, name: str) -> FileRef:
    """The stored bytes of a file that is alive, or that an unfinished job needs.

    Raises:
        NotFound: the file was deleted or has expired, and its bytes with it.
    """
    if file.blob_sha256 is None:
        raise NotFound(f"The bytes of {file.id} are gone.", code=ErrorCode.FILE_NOT_FOUND, param="id")
    return FileRef(name=name, sha256=file.blob_sha256, bytes=file.bytes)


async def let_go(session: AsyncSession) -> None:
    """Files that were deleted or have expired a day ago refer to their bytes no longer, unless a job still needs them.

    No new job can: it takes a file that is alive.
    """
    gone = or_(File.deleted_at < _a_day_ago(), File.expires_at < _a_day_ago())
    open_job = (
        select(Job.id)
        .where(or_(Job.training_file == File.id, Job.validation_file == File.id), Job.finished_at.is_(None))
        .exists()
    )
    change = update(File).where(gone, File.blob_sha256.is_not(None), not_(open_job)).values(blob_sha256=None)
    await session.execute(change.execution_options(synchronize_session=False))


async def find_many(
    session: AsyncSession,
    *,
    project: str,
    purpose: str | None,
    order: Literal["asc", "desc"],
    after: str | None,
    limit: int,
) -> list[File]:
    """Up to `limit` files behind `after`, by age."""
    query = select(File).where(File.project == project, *_alive()).limit(limit)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    if after is not None:
        await find(session, after, project=project, param="after")
        query = query.where(File.id > after if order == "asc" else File.id < after)
    query = query.order_by(File.id if order == "asc" else File.id.desc())
    return list((await session.execute(query)).scalars())


async def hide(session: AsyncSession, file_id: str, *, project: str) -> File:
    """Mark the file as deleted. Jobs that were already created from it keep their bytes.

    Raises:
        NotFound: as `find`.
    """
    file = await find(session, file_id, project=project)
    file.deleted_at = await now(session)
    return file


def _alive() -> tuple[ColumnElement[bool], ...]:
    return File.deleted_at.is_(None), or_(File.expires_at.is_(None), File.expires_at > func.now())


def _a_day_ago() -> ColumnElement[datetime]:
    return func.now() - text("interval '1 day'")


_FIND = select(File).where(File.id == bindparam("file_id"), File.project == bindparam("of_project"), *_alive())
