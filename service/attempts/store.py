"""Queries about attempts."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Checkpoint, File
from tunesmith.tuning.errors import Category
from tunesmith.tuning.messages import CheckpointRef, FileRef
from tunesmith.tuning.state import Outcome

_RESUME_CHOICES = 3  # a worker falls back to an older checkpoint when the newest does not verify


async def find_expired(session: AsyncSession, *, before: datetime, limit: int) -> list[Attempt]:
    """Open attempts whose lease ended before a moment."""
    query = (
        select(Attempt)
        .where(Attempt.ended_at.is_(None), Attempt.lease_expires_at < before)
        .order_by(Attempt.lease_expires_at)
        .limit(limit)
    )
    return list((await session.execute(query)).scalars())


async def count_kills(session: AsyncSession, job_id: str) -> int:
    """Attempts of the job in which the trainer was killed under a worker that lived to tell."""
    killed = Attempt.failure["category"].astext == Category.WORKER_LOST
    query = select(func.count()).where(Attempt.job_id == job_id, Attempt.outcome == Outcome.FAILED, killed)
    return (await session.execute(query)).scalar_one()


async def checkpoints_to_resume(session: AsyncSession, job_id: str) -> tuple[CheckpointRef, ...]:
    """The newest checkpoints, newest first."""
    query = (
        select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc()).limit(_RESUME_CHOICES)
    )
    return tuple(
        CheckpointRef(
            step=row.step,
            manifest_sha256=row.manifest_sha256,
            files=tuple(FileRef.model_validate(file) for file in row.files),
        )
        for row in (await session.execute(query)).scalars()
    )


async def file_ref(session: AsyncSession, file_id: str) -> FileRef:
    """A training file as a worker fetches it. Deleting the file hides it from people, not from its jobs."""
    file = await session.get_one(File, file_id)
    return FileRef(name="rows.jsonl", sha256=file.blob_sha256, bytes=file.bytes)
