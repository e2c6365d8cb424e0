"""What projects have and may have, for administrators, who change the latter."""

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.audit import store as audit
from tunesmith.service.audit.actions import Action, Actor
from tunesmith.service.keys.lifecycle import check_project
from tunesmith.service.projects import store
from tunesmith.service.projects.limits import merged
from tunesmith.service.settings import ProjectLimits, Settings
from tunesmith.tuning.api.access.projects import ProjectLimitsObject, ProjectObject, ProjectUsage
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.state import JobState


async def every(session: AsyncSession, settings: Settings) -> list[ProjectObject]:
    """All projects by name."""
    return await _look(session, await store.names(session), settings)


async def find(session: AsyncSession, name: str, settings: Settings) -> ProjectObject:
    """One project.

    Raises:
        NotFound: nothing belongs to such a project.
    """
    if name not in await store.names(session):
        hint = "Give it limits or a key, and it is there."
        raise NotFound(f"No project {name!r:.60}.", code=ErrorCode.PROJECT_NOT_FOUND, param="name", hint=hint)
    return (await _look(session, [name], settings))[0]


async def set_limits(
    session: AsyncSession, name: str, changes: Mapping[str, float | int | None], *, actor: Actor
) -> None:
    """Set these limits of a project, which is made if it is not there.

    Raises:
        InvalidRequest: the name cannot be a project's.
    """
    row = await store.make(session, check_project(name))
    for limit, value in changes.items():
        setattr(row, limit, value)
    await session.flush()
    audit.record(session, actor, Action.PROJECT_LIMITS_SET, name, **changes)


async def _look(session: AsyncSession, names: list[str], settings: Settings) -> list[ProjectObject]:
    own, hours = await store.find_own(session), await store.gpu_hours_this_month(session)
    return [
        ProjectObject(
            id=name,
            limits=_limits_object(merged(settings.limits_of(name), own.get(name))),
            usage=await _usage(session, name, gpu_hours=hours.get(name, 0.0)),
        )
        for name in names
    ]


def _limits_object(limits: ProjectLimits) -> ProjectLimitsObject:
    return ProjectLimitsObject(**limits.model_dump())


async def _usage(session: AsyncSession, name: str, *, gpu_hours: float) -> ProjectUsage:
    return ProjectUsage(
        running_jobs=await store.count_jobs(session, name, state=JobState.RUNNING),
        queued_jobs=await store.count_jobs(session, name, state=JobState.QUEUED),
        stored_bytes=await store.stored_bytes(session, name),
        gpu_hours_this_month=round(gpu_hours, 3),
    )
