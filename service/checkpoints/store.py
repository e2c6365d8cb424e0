"""Queries about checkpoints."""

from sqlalchemy import ColumnElement, and_, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.checkpoints.weights import weights_of
from tunesmith.service.database.access_tables import CheckpointPermission
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Attempt, Checkpoint, Job
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, NotFound
from tunesmith.tuning.messages import CheckpointRef, CheckpointReport, FileRef

_RESUME_CHOICES = 3  # a worker falls back to an older checkpoint when the newest does not verify


async def find_many(session: AsyncSession, job_id: str, *, after: str | None, limit: int) -> list[Checkpoint]:
    """Up to `limit` checkpoints of the job, the highest step first.

    Raises:
        InvalidRequest: `after` is not a checkpoint of this job.
    """
    query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc()).limit(limit)
    if after is not None:
        named = select(Checkpoint.step).where(Checkpoint.id == after, Checkpoint.job_id == job_id)
        step = (await session.execute(named)).scalar_one_or_none()
        if step is None:
            raise InvalidRequest(
                f"No checkpoint {after!r:.120} in this job.", code=ErrorCode.CHECKPOINT_NOT_FOUND, param="after"
            )
        query = query.where(Checkpoint.step < step)
    return list((await session.execute(query)).scalars())


async def find_at(session: AsyncSession, job_id: str, *, step: int) -> Checkpoint | None:
    """The job's checkpoint of this step."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.step == step)
    return (await session.execute(query)).scalar_one_or_none()


async def find_weights(session: AsyncSession, job_id: str, checkpoint_id: str, name: str) -> FileRef:
    """One file of the weights of a checkpoint of this job.

    Raises:
        NotFound: no such checkpoint, or no such file in it, for it may have been let go.
    """
    query = select(Checkpoint).where(Checkpoint.job_id == job_id, Checkpoint.id == checkpoint_id)
    checkpoint = (await session.execute(query)).scalar_one_or_none()
    for file in weights_of(checkpoint) if checkpoint else ():
        if file.name == name:
            return file
    message = f"No file {name!r:.120} in checkpoint {checkpoint_id!r:.80}."
    raise NotFound(message, code=ErrorCode.CHECKPOINT_NOT_FOUND, param="name")


async def find_to_resume(session: AsyncSession, job_id: str) -> tuple[CheckpointRef, ...]:
    """The newest checkpoints whose files are stored, newest first."""
    query = (
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id, _has_files())
        .order_by(Checkpoint.step.desc())
        .limit(_RESUME_CHOICES)
    )
    return tuple(
        CheckpointRef(
            step=row.step,
            manifest_sha256=row.manifest_sha256,
            files=tuple(FileRef.model_validate(file) for file in row.files),
        )
        for row in (await session.execute(query)).scalars()
    )


async def find_files(session: AsyncSession, job_id: str) -> list[FileRef]:
    """The files of all checkpoints of the job."""
    sets = (await session.execute(select(Checkpoint.files).where(Checkpoint.job_id == job_id))).scalars()
    return [FileRef.model_validate(file) for files in sets for file in files]


async def is_recorded(session: AsyncSession, attempt: Attempt, *, step: int) -> bool:
    """Whether this attempt has registered a checkpoint of this step."""
    query = select(Checkpoint.id).where(Checkpoint.attempt_id == attempt.id, Checkpoint.step == step)
    return (await session.execute(query)).scalar_one_or_none() is not None


async def record(session: AsyncSession, attempt: Attempt, report: CheckpointReport) -> None:
    """Store a checkpoint of the attempt. The same step of a later attempt takes the place of the earlier one."""
    values = {
        "attempt_id": attempt.id,
        "manifest_sha256": report.manifest_sha256,
        "files": [file.model_dump() for file in report.files],
        "metrics": storable(report.metrics),
        "created_at": func.now(),
    }
    row = insert(Checkpoint).values(id=new_id("ftckpt"), job_id=attempt.job_id, step=report.step, **values)
    await session.execute(row.on_conflict_do_update(index_elements=[Checkpoint.job_id, Checkpoint.step], set_=values))


async def let_go(session: AsyncSession) -> None:
    """Checkpoints that no attempt will start from keep their numbers and refer to their files no longer.

    A job that has not ended keeps as many as a claim offers, by step and again by age: an attempt that could use none
    of the old ones begins at low steps. Of a job that ended a day ago none is kept. One that other projects may ask
    keeps its files for as long as they may.
    """
    by_step = func.row_number().over(partition_by=Checkpoint.job_id, order_by=Checkpoint.step.desc())
    by_age = func.row_number().over(partition_by=Checkpoint.job_id, order_by=Checkpoint.created_at.desc())
    ranked = (
        select(Checkpoint.id, Checkpoint.created_at, by_step.label("by_step"), by_age.label("by_age"), Job.finished_at)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(_has_files(), ~_is_shared())
        .subquery()
    )
    old = and_(ranked.c.by_step > _RESUME_CHOICES, ranked.c.by_age > _RESUME_CHOICES)
    ended = ranked.c.finished_at < func.now() - text("interval '1 day'")
    # One that is registered anew while we wait for its row has another age.
    same = and_(Checkpoint.id == ranked.c.id, Checkpoint.created_at == ranked.c.created_at)
    change = update(Checkpoint).where(same, or_(old, ended)).values(files=[])
    await session.execute(change.execution_options(synchronize_session=False))


def _is_shared() -> ColumnElement[bool]:
    return select(CheckpointPermission.id).where(CheckpointPermission.checkpoint_id == Checkpoint.id).exists()


def _has_files() -> ColumnElement[bool]:
    return func.jsonb_array_length(Checkpoint.files) > 0
