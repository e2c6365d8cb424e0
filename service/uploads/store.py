"""Queries about uploads and their parts."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Upload, UploadPart
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound


async def find(session: AsyncSession, upload_id: str, *, project: str, lock: bool = False) -> Upload:
    """The upload of this project; locked, nobody else adds to it or ends it until the transaction ends.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    query = select(Upload).where(Upload.id == upload_id, Upload.project == project)
    upload = (await session.execute(query.with_for_update() if lock else query)).scalar_one_or_none()
    if upload is None:
        raise NotFound(f"No such Upload object: {upload_id:.100}", code=ErrorCode.UPLOAD_NOT_FOUND, param="id")
    return upload


async def received_bytes(session: AsyncSession, upload: Upload) -> int:
    """The length of all its parts together."""
    query = select(func.coalesce(func.sum(UploadPart.bytes), 0)).where(UploadPart.upload_id == upload.id)
    return int((await session.execute(query)).scalar_one())


async def find_parts(session: AsyncSession, upload: Upload) -> dict[str, UploadPart]:
    """Its parts by id."""
    query = select(UploadPart).where(UploadPart.upload_id == upload.id)
    return {part.id: part for part in (await session.execute(query)).scalars()}


async def forget_parts(session: AsyncSession, upload_ids: Sequence[str]) -> None:
    """Let go of the parts' bytes, which the next sweep deletes."""
    await session.execute(delete(UploadPart).where(UploadPart.upload_id.in_(upload_ids)))


async def let_go(session: AsyncSession, *, at: datetime) -> None:
    """The same for all uploads that were never completed and have expired."""
    expired = select(Upload.id).where(Upload.status == "pending", Upload.expires_at < at)
    await session.execute(
        delete(UploadPart).where(UploadPart.upload_id.in_(expired)).execution_options(synchronize_session=False)
    )
