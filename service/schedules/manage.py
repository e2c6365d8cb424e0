"""What people do to a schedule: create, replace, pause, resume, delete, run now."""

from datetime import datetime

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases.names import is_alias
from tunesmith.service.aliases.resolve import resolve
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Firing, Schedule
from tunesmith.service.database.transactions import now
from tunesmith.service.idempotency.reserve import check_key, key_was_used
from tunesmith.service.jobs.planning_request import usable_file
from tunesmith.service.jobs.priority import check_priority
from tunesmith.service.models import store as models
from tunesmith.service.schedules import store
from tunesmith.service.schedules.fetching.addresses import AllowedAddresses
from tunesmith.service.schedules.next_due import recurrence_of, start_over
from tunesmith.service.schedules.record_due import record
from tunesmith.service.schedules.schemas import CreateSchedule, RunNow, ScheduleSettings
from tunesmith.service.settings import Settings
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.words import Promotion


async def create(session: AsyncSession, request: CreateSchedule, *, caller: Caller, service: Settings) -> Schedule:
    """Store a new schedule. The same again finds the one that is there.

    Raises:
        InvalidRequest: with the field that must change, or another schedule has the name.
        Forbidden: the priority takes an admin.
    """
    settings = request.settings()
    await _check(session, settings, caller=caller, service=service)
    schedule = Schedule(
        id=new_id("sched"),
        project=caller.project,
        name=request.name,
        api_key_id=caller.key_id,
        settings=settings.model_dump(mode="json"),
    )
    start_over(schedule, settings, at=await now(session))
    await store.add(session, schedule)
    stored = await store.find(session, request.name, project=caller.project)
    if stored.settings != schedule.settings:
        raise InvalidRequest(
            f"Another schedule is already called {request.name!r}.",
            code=ErrorCode.SCHEDULE_EXISTS,
            param="name",
            hint=f"Replace it with PUT /v1/schedules/{request.name}, or choose another name.",
        )
    return stored


async def replace(
    session: AsyncSession, name_or_id: str, settings: ScheduleSettings, *, caller: Caller, service: Settings
) -> Schedule:
    """Give a schedule other settings, from its next due time on. From now on its jobs are made in the caller's name.

    Raises:
        NotFound: there is no such schedule.
        InvalidRequest: with the field that must change.
        Forbidden: the priority takes an admin.
    """
    await _check(session, settings, caller=caller, service=service)
    schedule = await store.find(session, name_or_id, project=caller.project, lock=True)
    at = await now(session)
    await _record_what_came(session, schedule, at=at)
    if settings.promotion is Promotion.NEVER:
        await store.end_awaiting(session, schedule, at=at, reason="The schedule promotes nothing any more.")
    schedule.settings = settings.model_dump(mode="json")
    schedule.api_key_id = caller.key_id
    start_over(schedule, settings, at=at)
    await store.refresh_time(session, schedule)
    await session.flush()
    return schedule


async def pause(session: AsyncSession, name_or_id: str, *, project: str) -> Schedule:
    """From now on due times are left out. What is due already goes on.

    Raises:
        NotFound: there is no such schedule.
    """
    schedule = await store.find(session, name_or_id, project=project, lock=True)
    at = await now(session)
    await _record_what_came(session, schedule, at=at)
    schedule.paused_at = schedule.paused_at or at
    await session.flush()
    return schedule


async def resume(session: AsyncSession, name_or_id: str, *, project: str) -> Schedule:
    """Go on with the next due time from now; those meanwhile are not made up for.

    Raises:
        NotFound: there is no such schedule.
    """
    schedule = await store.find(session, name_or_id, project=project, lock=True)
    if schedule.paused_at is not None:
        schedule.paused_at = None
        start_over(schedule, ScheduleSettings.model_validate(schedule.settings), at=await now(session))
    await session.flush()
    return schedule


async def delete(session: AsyncSession, name_or_id: str, *, project: str) -> Schedule:
    """Fire no more. Jobs that were made go on, and their results are not promoted.

    Raises:
        NotFound: there is no such schedule.
    """
    schedule = await store.find(session, name_or_id, project=project, lock=True)
    at = schedule.deleted_at = await now(session)
    await store.cancel_undecided(session, schedule, at=at, reason="The schedule was deleted.")
    await store.end_awaiting(session, schedule, at=at, reason="The schedule was deleted before there was a verdict.")
    await session.flush()
    return schedule


async def run_now(
    session: AsyncSession, name_or_id: str, request: RunNow, *, project: str, idempotency_key: str | None
) -> Firing:
    """Record a firing of this moment, also of a paused schedule; a keeper decides about it as about any other.

    Raises:
        NotFound: there is no such schedule.
        InvalidRequest: the key is empty or too long, or was used for another request.
    """
    if idempotency_key is not None:
        check_key(idempotency_key)
    schedule = await store.find(session, name_or_id, project=project, lock=True)
    at = await now(session)
    await store.add_firing(
        session,
        schedule,
        due_at=at,
        at=at,
        trigger="manual",
        is_forced=request.force,
        idempotency_key=idempotency_key,
    )
    firing = await store.find_same(session, schedule, due_at=at, idempotency_key=idempotency_key)
    if firing.idempotency_key is not None and firing.is_forced != request.force:
        raise key_was_used()
    return firing


async def _record_what_came(session: AsyncSession, schedule: Schedule, *, at: datetime) -> None:
    """Before a change, due times under the old settings; one that can no longer be read may be changed without."""
    try:
        async with session.begin_nested():
            await record(session, schedule, at=at)
    except (InvalidRequest, ValidationError):
        await session.refresh(schedule)


async def _check(session: AsyncSession, settings: ScheduleSettings, *, caller: Caller, service: Settings) -> None:
    settings.check()
    recurrence_of(settings)
    check_priority(settings.job.tunesmith.priority, role=caller.role, param="job.tunesmith.priority")
    if settings.data.url is not None:
        AllowedAddresses.of(service).check(settings.data.url, param="data.url")
    await _check_model(session, service.model_meant_by(settings.job.model), project=caller.project)
    for param, file in settings.named_files.items():  # ids are given once: one that is not there will never be
        await usable_file(session, file, param, project=caller.project)


async def _check_model(session: AsyncSession, name: str, *, project: str) -> None:
    """An alias may come to stand for something later; a model is there or misspelt."""
    try:
        meant = await resolve(session, name, project=project)
        await models.find_ready(session, meant, project=project)
    except InvalidRequest as error:
        if is_alias(name) and error.code == ErrorCode.ALIAS_NOT_FOUND:
            return
        error.param = "job.model"
        raise
