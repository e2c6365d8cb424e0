"""Queries about checkpoints."""

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Attempt, Checkpoint
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
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


async def find_to_resume(session: AsyncSession, job_id: str) -> tuple[CheckpointRef, ...]:
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
