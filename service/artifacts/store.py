"""Queries about artifacts."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Artifact, Job
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import FileRef


async def find_of_job(session: AsyncSession, job: Job) -> list[Artifact]:
    """The job's artifacts, the newest first."""
    query = select(Artifact).where(Artifact.job_id == job.id).order_by(Artifact.id.desc())
    return list((await session.execute(query)).scalars())


async def find_of_attempt(session: AsyncSession, attempt_id: str) -> dict[str, Artifact]:
    """What one attempt registered, by kind."""
    query = select(Artifact).where(Artifact.attempt_id == attempt_id)
    return {artifact.kind: artifact for artifact in (await session.execute(query)).scalars()}


async def find_file(session: AsyncSession, artifact_id: str, name: str, *, project: str) -> FileRef:
    """One file of an artifact of this project.

    Raises:
        NotFound: no such artifact, or no such file in it.
    """
    query = (
        select(Artifact).join(Job, Job.id == Artifact.job_id).where(Artifact.id == artifact_id, Job.project == project)
    )
    artifact = (await session.execute(query)).scalar_one_or_none()
    for file in artifact.files if artifact else []:
        if file["name"] == name:
            return FileRef.model_validate(file)
    raise NotFound(
        f"No file {name!r:.120} in artifact {artifact_id!r:.80}.", code=ErrorCode.ARTIFACT_NOT_FOUND, param="name"
    )
