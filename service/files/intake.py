"""Taking a file in: check its rows and hash its bytes in one pass, store them, keep it whatever the check says."""

import asyncio
import hashlib
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.blobs import intake, store
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import File
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.files.row_check import CheckedRows
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.rows import RowChecker, RowReport
from tunesmith.tuning.errors import TunesmithError

TRAINING_PURPOSE = "fine-tune"
RESULTS_PURPOSE = "fine-tune-results"
PURPOSES = (TRAINING_PURPOSE, "assistants", "batch", "vision", "user_data", "evals")
_CHUNK_BYTES = 1024 * 1024
_CHECKED_HERE_BYTES = 64 * 1024  # a smaller file is checked sooner than a process for it starts
_TOOL = (sys.executable, "-m", "tunesmith.service.files.row_check")
_at_once = asyncio.Semaphore(2)


class CheckEnded(TunesmithError):
    """The process that read the rows was ended by something else."""

    code = ErrorCode.SERVICE_UNAVAILABLE
    http_status = 503


@dataclass(frozen=True)
class Received:
    """An uploaded file that is completely in the store. `report` is set when its rows were checked."""

    sha256: str
    length_bytes: int
    report: RowReport | None


async def receive(database: Database, blobs: BlobStore, file: BinaryIO, *, purpose: str) -> Received:
    """Check and store an uploaded file; memory stays bounded by one row."""
    check = purpose == TRAINING_PURPOSE
    if check and await run_in_threadpool(_length_bytes, file) > _CHECKED_HERE_BYTES:
        received = await _checked_elsewhere(file)
    else:
        received = await run_in_threadpool(_read, file, check=check)
    await intake.write_file(database, blobs, file, sha256=received.sha256)
    return received


async def record(
    session: AsyncSession,
    received: Received,
    *,
    project: str,
    purpose: str,
    filename: str,
    expires_after_seconds: int | None = None,
    labels: dict[str, str] | None = None,
) -> File:
    """Make the file's row. A bad file is kept, with status `error` and the reasons."""
    await store.record(session, sha256=received.sha256, length_bytes=received.length_bytes)
    problems = received.report.summary if received.report else None
    moment = await now(session)
    file = File(
        id=new_id("file"),
        project=project,
        purpose=purpose,
        filename=filename,
        bytes=received.length_bytes,
        blob_sha256=received.sha256,
        status="error" if problems else "processed",
        status_details=problems,
        report=received.report.model_dump(mode="json") if received.report else None,
        labels=labels,
        expires_at=moment + timedelta(seconds=expires_after_seconds) if expires_after_seconds else None,
    )
    session.add(file)
    await session.flush()
    return file


async def _checked_elsewhere(file: BinaryIO) -> Received:
    """Let a process of its own read the file; see `service.files.row_check`."""
    descriptor = await run_in_threadpool(file.fileno)  # which puts it on the disk when it was in memory
    async with _at_once:
        process = await asyncio.create_subprocess_exec(*_TOOL, stdin=descriptor, stdout=asyncio.subprocess.PIPE)
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        raise CheckEnded(f"The check of the file ended with status {process.returncode}. Send the file again.")
    checked = CheckedRows.model_validate_json(output)
    return Received(checked.sha256, checked.length_bytes, checked.report)


def _length_bytes(file: BinaryIO) -> int:
    file.flush()
    return file.seek(0, os.SEEK_END)


def _read(file: BinaryIO, *, check: bool) -> Received:
    file.seek(0)
    digest = hashlib.sha256()
    checker = RowChecker() if check else None
    length_bytes = 0
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
        length_bytes += len(chunk)
        if checker is not None:
            checker.feed(chunk)
    return Received(digest.hexdigest(), length_bytes, checker.finish() if checker else None)
