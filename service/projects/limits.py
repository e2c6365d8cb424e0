"""Refusing what would be more than a project may have."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.access_tables import Project
from tunesmith.service.database.transactions import once
from tunesmith.service.projects import store
from tunesmith.service.settings import ProjectLimits, Settings
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Forbidden, LimitReached
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.units import plural

_MOST_AT_ONCE = 1000  # jobs that others may add while one is planned: so far below the limit nobody waits for a lock


@dataclass(frozen=True)
class Allowances:
    """What every project may have at this moment, and whose GPU hours of the month are used up."""

    settings: Settings
    own: Mapping[str, Project]
    used_up: frozenset[str]

    def of(self, project: str) -> ProjectLimits:
        """What an admin has set for the project, and for the rest what the settings say."""
        return merged(self.settings.limits_of(project), self.own.get(project))

    def is_full(self, project: str, running: int) -> bool:
        """Whether the project, which runs so many jobs, may start no more now."""
        return project in self.used_up or self.of(project).is_full(running)


async def allowances(session: AsyncSession, settings: Settings) -> Allowances:
    """Those of all projects. GPU hours are only counted where somebody limits them."""
    own = await store.find_own(session)
    everybody = Allowances(settings, own, frozenset())
    limited = [limits.gpu_hours_per_month for limits in settings.project_limits.values()]
    limited += [project.gpu_hours_per_month for project in own.values()]
    if all(hours is None for hours in limited):
        return everybody
    hours = await store.gpu_hours_this_month(session)
    used_up = {
        name
        for name in {*own, *hours, *settings.project_limits}
        if _is_used_up(everybody.of(name), hours.get(name, 0.0))
    }
    return Allowances(settings, own, frozenset(used_up))


def merged(limits: ProjectLimits, own: Project | None) -> ProjectLimits:
    """The limits with those in their place that are the project's own."""
    if own is None:
        return limits
    values = {name: getattr(own, name) for name in ProjectLimits.model_fields}
    return limits.model_copy(update={name: value for name, value in values.items() if value is not None})


async def has_room_in_line(session: AsyncSession, project: str, *, limits: ProjectLimits) -> bool:
    """Ask before a job is planned; unless there is room for all that others may be adding, `check_queued` looks again.

    Raises:
        LimitReached: the line is full already.
    """
    limits = await _with_own(session, project, limits)
    if limits.queued_jobs is None:
        return True
    queued = await once(session, ("queued", project), lambda: _count_queued(session, project))
    if queued >= limits.queued_jobs:
        raise _line_is_full(project, queued, most=limits.queued_jobs)
    return queued + _MOST_AT_ONCE <= limits.queued_jobs


async def check_queued(session: AsyncSession, project: str, *, limits: ProjectLimits) -> None:
    """Call it when the new queued job has been flushed, last in its transaction.

    Raises:
        LimitReached: it is one too many.
    """
    limits = await _with_own(session, project, limits)
    if limits.queued_jobs is None:
        return
    await store.lock(session, project, what="queued")
    queued = await store.count_jobs(session, project, state=JobState.QUEUED)
    if queued > limits.queued_jobs:
        raise _line_is_full(project, queued - 1, most=limits.queued_jobs)


async def may_run_one_more(session: AsyncSession, project: str, *, limits: ProjectLimits) -> bool:
    """Whether the project may run one more job. Until the transaction ends nobody else starts one of it."""
    limits = await _with_own(session, project, limits)
    if limits.running_jobs is None:
        return True
    await store.lock(session, project, what="running")
    return not limits.is_full(await store.count_jobs(session, project, state=JobState.RUNNING))


async def check_stored(session: AsyncSession, project: str, *, limits: ProjectLimits, coming_bytes: int = 0) -> None:
    """Call it when the new file has been flushed, or before a job is made, whose result nobody refuses later.

    `coming_bytes` are announced and not sent yet; they are looked at again when they have come.

    Raises:
        Forbidden: the project has more bytes than it may.
    """
    limits = await _with_own(session, project, limits)
    if limits.stored_bytes is None:
        return
    await store.lock(session, project, what="stored")
    stored = await store.stored_bytes(session, project) + coming_bytes
    if stored > limits.stored_bytes:
        message = f"The project {project!r} would have {stored:,} bytes stored; its limit is {limits.stored_bytes:,}."
        raise Forbidden(
            message,
            code=ErrorCode.TOO_MANY_STORED_BYTES,
            hint="Delete files of the project, or let an admin raise the project's limit.",
        )


async def why_none_starts(session: AsyncSession, project: str, running: int, *, limits: ProjectLimits) -> str | None:
    """Which limit keeps the project's jobs in line; None where none does."""
    limits = await _with_own(session, project, limits)
    if limits.is_full(running):
        return f"The project {project!r} runs {plural(running, 'job')}, the most that it may at a time."
    if limits.gpu_hours_per_month is None:
        return None
    used = (await store.gpu_hours_this_month(session)).get(project, 0.0)
    if not _is_used_up(limits, used):
        return None
    most = limits.gpu_hours_per_month
    return f"The project {project!r} has used {used:.1f} GPU hours this month, of {most:g} that it may."


async def _with_own(session: AsyncSession, project: str, limits: ProjectLimits) -> ProjectLimits:
    own = await once(session, "limits of projects", lambda: store.find_own(session))
    return merged(limits, own.get(project))


async def _count_queued(session: AsyncSession, project: str) -> int:
    return await store.count_jobs(session, project, state=JobState.QUEUED)


def _is_used_up(limits: ProjectLimits, hours: float) -> bool:
    return limits.gpu_hours_per_month is not None and hours >= limits.gpu_hours_per_month


def _line_is_full(project: str, queued: int, *, most: int) -> LimitReached:
    return LimitReached(
        f"The project {project!r} has {plural(queued, 'job')} in line, and its limit is {most}.",
        code=ErrorCode.TOO_MANY_QUEUED_JOBS,
        hint="Wait until some have started, cancel some, or let an admin raise the project's limit.",
    )
