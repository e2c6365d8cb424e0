"""Queries about what a project has."""

from typing import Literal

from sqlalchemy import BigInteger, ColumnElement, Float, ScalarSelect, cast, func, select, text, union
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.access_tables import Project
from tunesmith.service.database.locks import lock_names
from tunesmith.service.database.tables import ApiKey, Artifact, Attempt, Checkpoint, File, Job, Upload, UploadPart
from tunesmith.tuning.state import JobState

_MONTH = text("date_trunc('month', now(), 'UTC')")
_GPU_SECONDS = func.extract(
    "epoch", func.coalesce(Attempt.ended_at, func.now()) - func.greatest(Attempt.started_at, _MONTH)
) * cast(Attempt.plan["world_size"].astext, Float)


async def find_own(session: AsyncSession) -> dict[str, Project]:
    """The projects that somebody gave limits of their own, by name."""
    return {row.name: row for row in (await session.execute(select(Project))).scalars()}


async def make(session: AsyncSession, name: str) -> Project:
    """The project's row, locked; made if it is not there."""
    await session.execute(insert(Project).values(name=name).on_conflict_do_nothing())
    query = select(Project).where(Project.name == name).with_for_update()
    return (await session.execute(query)).scalar_one()


async def names(session: AsyncSession) -> list[str]:
    """Of every project that has limits, a key, a file or a job."""
    every = union(*(select(column) for column in (Project.name, ApiKey.project, File.project, Job.project)))
    return sorted((await session.execute(every)).scalars())


async def gpu_hours_this_month(session: AsyncSession) -> dict[str, float]:
    """By project, of attempts that ran since the month began; on CPUs they count nothing."""
    query = (
        select(Job.project, func.sum(_GPU_SECONDS) / 3600.0)
        .join(Attempt, Attempt.job_id == Job.id)
        .where(
            (Attempt.ended_at > _MONTH) | Attempt.ended_at.is_(None),
            ~Attempt.worker_class.startswith("cpu-"),
        )
        .group_by(Job.project)
    )
    return {project: float(hours) for project, hours in (await session.execute(query)).all()}


async def lock(session: AsyncSession, project: str, *, what: Literal["running", "queued", "stored"]) -> None:
    """Wait for others that add the same to the project. Held until the transaction ends."""
    await lock_names(session, [f"project {what} {project}"])


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
