"""Queries about checkpoints by name, and about who may ask them."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.access_tables import CheckpointPermission
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Checkpoint, Job
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.words import JobKind

_MOST_ALIKE = 10  # jobs whose ids end in the same eight digits


async def find_own(session: AsyncSession, ending: str, *, step: int, project: str) -> list[tuple[Job, Checkpoint]]:
    """Checkpoints of this step of the project's training jobs whose id ends so, with their jobs."""
    query = (
        select(Job, Checkpoint)
        .join(Checkpoint, Checkpoint.job_id == Job.id)
        .where(Job.project == project, Job.kind == JobKind.TRAINING, Job.id.endswith(ending, autoescape=True))
        .where(Checkpoint.step == step)
    )
    return [(job, checkpoint) for job, checkpoint in await session.execute(query.limit(_MOST_ALIKE))]


async def find_granted(session: AsyncSession, ending: str, *, step: int, project: str) -> list[tuple[Job, Checkpoint]]:
    """The same of other projects' jobs, where this project has a permission."""
    query = (
        select(Job, Checkpoint)
        .join(Checkpoint, Checkpoint.job_id == Job.id)
        .join(CheckpointPermission, CheckpointPermission.checkpoint_id == Checkpoint.id)
        .where(CheckpointPermission.project == project, Job.id.endswith(ending, autoescape=True))
        .where(Checkpoint.step == step)
    )
    return [(job, checkpoint) for job, checkpoint in await session.execute(query.limit(_MOST_ALIKE))]


async def add(session: AsyncSession, checkpoint: Checkpoint, projects: Sequence[str]) -> list[CheckpointPermission]:
    """One permission for each of the projects, in their order; those that are there already stay as they are."""
    of_checkpoint = {"checkpoint_id": checkpoint.id}
    rows = [{"id": new_id("cp"), "project": project, **of_checkpoint} for project in projects]
    await session.execute(insert(CheckpointPermission).values(rows).on_conflict_do_nothing())
    query = select(CheckpointPermission).filter_by(**of_checkpoint).where(CheckpointPermission.project.in_(projects))
    found = {row.project: row for row in (await session.execute(query)).scalars()}
    return [found[project] for project in projects]


async def find_many(
    session: AsyncSession,
    checkpoint: Checkpoint,
    *,
    project: str | None,
    after: str | None,
    order: Literal["ascending", "descending"],
    limit: int,
) -> list[CheckpointPermission]:
    """Up to `limit` permissions of the checkpoint behind `after`, by the time they were given.

    Raises:
        NotFound: `after` is no permission of this checkpoint.
    """
    permission_id = CheckpointPermission.id  # ids sort by time
    by = permission_id.desc() if order == "descending" else permission_id
    query = select(CheckpointPermission).where(CheckpointPermission.checkpoint_id == checkpoint.id).order_by(by)
    if project is not None:
        query = query.where(CheckpointPermission.project == project)
    if after is not None:
        start = (await find(session, checkpoint, after, param="after")).id
        query = query.where(permission_id < start if order == "descending" else permission_id > start)
    return list((await session.execute(query.limit(limit))).scalars())


async def find(
    session: AsyncSession, checkpoint: Checkpoint, permission_id: str, *, param: str
) -> CheckpointPermission:
    """One permission, locked.

    Raises:
        NotFound: the checkpoint has no such permission.
    """
    query = select(CheckpointPermission).filter_by(id=permission_id, checkpoint_id=checkpoint.id).with_for_update()
    row = (await session.execute(query)).scalar_one_or_none()
    if row is None:
        raise NotFound(
            f"The checkpoint has no permission {permission_id!r:.120}.",
            code=ErrorCode.PERMISSION_NOT_FOUND,
            param=param,
            hint="List the permissions of the checkpoint.",
        )
    return row
