"""Queries about what a project has."""

from typing import Literal

from sqlalchemy import BigInteger, ColumnElement, ScalarSelect, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Artifact, Checkpoint, File, Job, Upload, UploadPart
from tunesmith.tuning.state import JobState


async def lock(session: AsyncSession, project: str, *, what: Literal["running", "queued", "stored"]) -> None:
    """Wait for others that add the same to the project. Held until the transaction ends."""
    name = f"project {what} {project}"
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


async def count_jobs(session: AsyncSession, project: str, *, state: JobState) -> int:
    """Jobs of the project in this state."""
    query = select(func.count()).where(Job.project == project, Job.state == state.value)
    return (await session.execute(query)).scalar_one()


async def stored_bytes(session: AsyncSession, project: str) -> int:
    """Bytes of the project's files, uploads, checkpoints and results; what two of them share counts for each."""
    files = select(func.coalesce(func.sum(File.bytes), 0)).where(
        File.project == project, File.blob_sha256.is_not(None), File.deleted_at.is_(None)
    )
    parts = select(func.coalesce(func.sum(UploadPart.bytes), 0)).join(Upload).where(Upload.project == project)
    query = select(
        files.scalar_subquery()
        + parts.scalar_subquery()
        + _bytes_of(Checkpoint, project)
        + _bytes_of(Artifact, project)
    )
    return int((await session.execute(query)).scalar_one())


def _bytes_of(kind: type[Checkpoint] | type[Artifact], project: str) -> ScalarSelect[int]:
    each: ColumnElement[int] = cast(func.jsonb_array_elements(kind.files).op("->>")("bytes"), BigInteger)
    rows = select(each.label("bytes")).join(Job, Job.id == kind.job_id).where(Job.project == project).subquery()
    return select(func.coalesce(func.sum(rows.c.bytes), 0)).scalar_subquery()
