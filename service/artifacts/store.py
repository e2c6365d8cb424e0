"""Queries about artifacts."""

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Artifact, Attempt, Job
from tunesmith.tuning.codes import RESULT_KINDS, ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.messages import ArtifactReport, FileRef


async def find_of_job(session: AsyncSession, job: Job) -> list[Artifact]:
    """The job's artifacts, the newest first."""
    query = select(Artifact).where(Artifact.job_id == job.id).order_by(Artifact.id.desc())
    return list((await session.execute(query)).scalars())


async def find_of_attempt(session: AsyncSession, attempt_id: str) -> dict[str, Artifact]:
    """What one attempt registered, by kind."""
    query = select(Artifact).where(Artifact.attempt_id == attempt_id)
    return {artifact.kind: artifact for artifact in (await session.execute(query)).scalars()}


async def find_files(session: AsyncSession, job_id: str) -> list[FileRef]:
    """The files of all artifacts of the job."""
    sets = (await session.execute(select(Artifact.files).where(Artifact.job_id == job_id))).scalars()
    return [FileRef.model_validate(file) for files in sets for file in files]


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


async def record(session: AsyncSession, attempt: Attempt, report: ArtifactReport) -> None:
    """Store a result of the attempt. The same kind again replaces it."""
    values = {"files": [file.model_dump() for file in report.files], "details": storable(report.metadata)}
    row = insert(Artifact).values(
        id=new_id("artifact"), job_id=attempt.job_id, attempt_id=attempt.id, kind=report.kind, **values
    )
    await session.execute(row.on_conflict_do_update(index_elements=[Artifact.attempt_id, Artifact.kind], set_=values))


async def let_go_of_results(session: AsyncSession, job_id: str) -> None:
    """The job's results refer to their files no longer: the model that was made of them is gone. Its log stays."""
    change = update(Artifact).where(Artifact.job_id == job_id, Artifact.kind.in_(RESULT_KINDS)).values(files=[])
    await session.execute(change.execution_options(synchronize_session=False))
