"""Queries about files."""

from typing import Literal

from sqlalchemy import ColumnElement, bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import File
from tunesmith.service.database.transactions import now
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import FileRef


async def find(session: AsyncSession, file_id: str, *, project: str) -> File:
    """The file of this project.

    Raises:
        NotFound: there is none, it was deleted, it has expired, or it is another project's.
    """
    file = (await session.execute(_FIND, {"file_id": file_id, "of_project": project})).scalar_one_or_none()
    if file is None:
        raise NotFound(f"No such File object: {file_id}", code=ErrorCode.FILE_NOT_FOUND, param="id")
    return file


async def find_with_bytes(session: AsyncSession, sha256: str, *, project: str) -> list[str]:
    """Ids of the project's usable files that hold these bytes, the oldest first."""
    query = (
        select(File.id)
        .where(File.project == project, File.blob_sha256 == sha256, File.status == "processed", *_alive())
        .order_by(File.id)
    )
    return list((await session.execute(query)).scalars())


async def file_ref(session: AsyncSession, file_id: str) -> FileRef:
    """A training file as a worker fetches it. Deleting the file hides it from people, not from its jobs."""
    file = await session.get_one(File, file_id)
    return FileRef(name="rows.jsonl", sha256=file.blob_sha256, bytes=file.bytes)


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
        await find(session, after, project=project)
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


_FIND = select(File).where(File.id == bindparam("file_id"), File.project == bindparam("of_project"), *_alive())
