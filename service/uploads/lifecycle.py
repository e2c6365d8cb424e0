"""The life of an upload: opened, filled with parts, then completed into a file, cancelled or expired."""

import hashlib
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import IO, BinaryIO

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.blobs import intake as bytes_intake
from tunesmith.service.blobs import store as blob_rows
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import File, Upload, UploadPart
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.files import intake as files_intake
from tunesmith.service.projects.limits import check_stored
from tunesmith.service.settings import ProjectLimits
from tunesmith.service.uploads import store
from tunesmith.service.uploads.schemas import CompleteUpload, CreateUpload
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.messages import FileRef
from tunesmith.tuning.values.limits import MOST_PART_BYTES

_LIFETIME = timedelta(hours=1)
_CHUNK_BYTES = 1024 * 1024


async def create(
    session: AsyncSession, request: CreateUpload, *, project: str, most_bytes: int, limits: ProjectLimits
) -> Upload:
    """Open an upload for an hour.

    Raises:
        InvalidRequest: the purpose is unknown, or the file would be larger than a file may be.
        Forbidden: the project would store more than it may.
    """
    if request.purpose not in files_intake.PURPOSES:
        message = f"'purpose' must be one of {', '.join(files_intake.PURPOSES)}."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="purpose")
    if request.bytes > most_bytes:
        message = f"A file has at most {most_bytes:,} bytes here, not {request.bytes:,}."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="bytes")
    await check_stored(session, project, limits=limits, coming_bytes=request.bytes)
    upload = Upload(
        id=new_id("upload"),
        project=project,
        bytes=request.bytes,
        filename=request.filename,
        purpose=request.purpose,
        mime_type=request.mime_type,
        status="pending",
        expires_at=await now(session) + _LIFETIME,
        keep_file_seconds=request.expires_after.seconds if request.expires_after else None,
    )
    session.add(upload)
    await session.flush()
    return upload


async def add_part(
    database: Database, blobs: BlobStore, file: BinaryIO, *, upload_id: str, project: str, limits: ProjectLimits
) -> UploadPart:
    """Store a part. Parts may come at once and in any order; one that was sent twice is simply not named at the end.

    Raises:
        NotFound: there is no such upload.
        InvalidRequest: it is over, or the parts would be longer than the file.
        Forbidden: the project would store more than it may.
    """
    async with database.transaction() as session:  # before its bytes are stored for nothing
        _require_pending(await store.find(session, upload_id, project=project), at=await now(session))
    sha256, length_bytes = await run_in_threadpool(_measured, file)
    await bytes_intake.write_file(database, blobs, file, sha256=sha256)
    async with database.transaction() as session:
        upload = await store.find(session, upload_id, project=project, lock=True)
        _require_pending(upload, at=await now(session))
        await blob_rows.record(session, sha256=sha256, length_bytes=length_bytes)
        part = UploadPart(id=new_id("part"), upload_id=upload.id, blob_sha256=sha256, bytes=length_bytes)
        session.add(part)
        await session.flush()
        if (total := await store.received_bytes(session, upload)) > 2 * upload.bytes + MOST_PART_BYTES:
            message = f"{total:,} bytes of parts have come for a file of {upload.bytes:,}."
            raise InvalidRequest(message, code=ErrorCode.INVALID_UPLOAD, param="data", hint="Cancel it and begin anew.")
        await check_stored(session, project, limits=limits)
        return part


async def complete(
    database: Database,
    blobs: BlobStore,
    request: CompleteUpload,
    *,
    upload_id: str,
    project: str,
    limits: ProjectLimits,
) -> tuple[Upload, File]:
    """Put the parts together and make a file of them; completing it again finds the same file.

    Raises:
        NotFound: there is no such upload.
        InvalidRequest: it is over; a part is unknown, named twice or missing; the length or the MD5 is another.
    """
    async with database.transaction() as session:
        upload = await store.find(session, upload_id, project=project)
        if upload.file_id is not None:
            return upload, await session.get_one(File, upload.file_id)
        _require_pending(upload, at=await now(session))
        parts = _in_order(upload, await store.find_parts(session, upload), request.part_ids)
    with tempfile.TemporaryFile() as whole:
        md5 = await _assemble(blobs, parts, into=whole)
        if request.md5 is not None and request.md5.lower() != md5:
            message = f"The parts put together have MD5 {md5}, not {request.md5.lower()}."
            raise InvalidRequest(message, code=ErrorCode.INVALID_UPLOAD, param="md5", hint="Is their order right?")
        received = await files_intake.receive(database, blobs, whole, purpose=upload.purpose)
    async with database.transaction() as session:
        upload = await store.find(session, upload_id, project=project, lock=True)
        if upload.file_id is not None:  # completed by another request meanwhile
            return upload, await session.get_one(File, upload.file_id)
        _require_pending(upload, at=await now(session))
        file = await files_intake.record(
            session,
            received,
            project=project,
            purpose=upload.purpose,
            filename=upload.filename,
            expires_after_seconds=upload.keep_file_seconds,
        )
        upload.status, upload.file_id = "completed", file.id
        await store.forget_parts(session, [upload.id])
        await check_stored(session, project, limits=limits)
        return upload, file


async def cancel(session: AsyncSession, upload_id: str, *, project: str) -> Upload:
    """End it without a file; cancelling it again changes nothing.

    Raises:
        NotFound: there is no such upload.
        InvalidRequest: it was completed or has expired.
    """
    upload = await store.find(session, upload_id, project=project, lock=True)
    if upload.status != "cancelled":
        _require_pending(upload, at=await now(session))
        upload.status = "cancelled"
        await store.forget_parts(session, [upload.id])
    return upload


def status_of(upload: Upload, *, at: datetime) -> str:
    """Its status, which time alone changes from pending to expired."""
    return "expired" if upload.status == "pending" and upload.expires_at < at else upload.status


def _require_pending(upload: Upload, *, at: datetime) -> None:
    if (status := status_of(upload, at=at)) != "pending":
        raise InvalidRequest(
            f"The upload {upload.id} is {status}.",
            code=ErrorCode.INVALID_UPLOAD,
            param="id",
            hint="Create another: an upload is open for an hour.",
        )


def _in_order(upload: Upload, known: dict[str, UploadPart], part_ids: Sequence[str]) -> list[FileRef]:
    named: set[str] = set()
    for place, part_id in enumerate(part_ids):
        if part_id not in known or part_id in named:
            what = "is named twice" if part_id in known else f"is no part of {upload.id}"
            raise InvalidRequest(f"{part_id!r:.80} {what}.", code=ErrorCode.INVALID_UPLOAD, param=f"part_ids.{place}")
        named.add(part_id)
    total_bytes = sum(known[part_id].bytes for part_id in part_ids)
    if total_bytes != upload.bytes:
        raise InvalidRequest(
            f"The parts named have {total_bytes:,} bytes, the file was to have {upload.bytes:,}.",
            code=ErrorCode.INVALID_UPLOAD,
            param="part_ids",
            hint="Name every part once, in the order of the file.",
        )
    return [
        FileRef(name=part_id, sha256=known[part_id].blob_sha256, bytes=known[part_id].bytes) for part_id in part_ids
    ]


async def _assemble(blobs: BlobStore, parts: Sequence[FileRef], *, into: IO[bytes]) -> str:
    """Write the parts behind each other and return the MD5 of the whole."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        async for chunk in blobs.read(part.sha256, start=0, end=part.bytes):
            digest.update(chunk)
            await run_in_threadpool(into.write, chunk)
    return digest.hexdigest()


def _measured(file: BinaryIO) -> tuple[str, int]:
    file.seek(0)
    digest, length_bytes = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        length_bytes += len(chunk)
    return digest.hexdigest(), length_bytes
