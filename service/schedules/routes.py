"""`/v1/schedules`: jobs that are made again and again, their history, and verdicts on what they made."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Schedule
from tunesmith.service.schedules import manage, store
from tunesmith.service.schedules.follow import FiringWatch, may_change
from tunesmith.service.schedules.judging.settle import take_verdict
from tunesmith.service.schedules.schemas import CreateSchedule, PostVerdict, RunNow, ScheduleSettings
from tunesmith.service.schedules.views import firing_object, schedule_object
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.etags import NOT_MODIFIED, IfNoneMatch, Wait, is_known_answer, tagged
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import AT_MOST, After, IdempotencyKey
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.api.nightly.schedules import FiringObject, FiringPage, ScheduleList, ScheduleObject

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])

ScheduleName = Annotated[str, Path(description="The schedule's id, `sched-...`, or its name.")]
FiringId = Annotated[str, Path(description="The firing's id, `firing-...`.")]


async def _firing_watch(request: Request) -> FiringWatch:
    return request.app.state.firing_watch  # type: ignore[no-any-return]


FiringWatchDep = Annotated[FiringWatch, Depends(_firing_watch)]


@router.post("", openapi_extra=documented(CreateSchedule))
async def create_schedule(
    caller: MemberKey,
    request: Annotated[CreateSchedule, json_body(CreateSchedule)],
    *,
    session: DbSession,
    settings: SettingsDep,
) -> ScheduleObject:
    """Create a schedule. The same again answers with the one that is there."""
    schedule = await manage.create(session, request, caller=caller, service=settings)
    return await _shown(session, schedule)


@router.get("", response_model=ScheduleList, responses=NOT_MODIFIED)
async def list_schedules(caller: MemberKey, session: DbSession, if_none_match: IfNoneMatch = None) -> Response:
    """The project's schedules with what became of their last due times."""
    found = await store.find_many(session, project=caller.project)
    newest = await store.find_newest(session, [schedule.id for schedule in found])
    shown = [schedule_object(schedule, last=newest.get(schedule.id)) for schedule in found]
    return tagged(ScheduleList(data=shown), known=if_none_match)


@router.get("/{schedule}", response_model=ScheduleObject, responses=NOT_MODIFIED)
async def retrieve_schedule(
    schedule: ScheduleName, caller: MemberKey, session: DbSession, if_none_match: IfNoneMatch = None
) -> Response:
    """One schedule with its next due times."""
    found = await store.find(session, schedule, project=caller.project)
    return tagged(await _shown(session, found), known=if_none_match)


@router.put("/{schedule}", openapi_extra=documented(ScheduleSettings))
async def replace_schedule(
    schedule: ScheduleName,
    caller: MemberKey,
    request: Annotated[ScheduleSettings, json_body(ScheduleSettings)],
    *,
    session: DbSession,
    settings: SettingsDep,
) -> ScheduleObject:
    """Give a schedule other settings, from its next due time on. Its jobs are made in the name of this key then."""
    return await _shown(session, await manage.replace(session, schedule, request, caller=caller, service=settings))


@router.delete("/{schedule}")
async def delete_schedule(schedule: ScheduleName, caller: MemberKey, session: DbSession) -> Deleted:
    """Fire no more. Jobs that were made go on; their results are not promoted."""
    deleted = await manage.delete(session, schedule, project=caller.project)
    return Deleted(id=deleted.id, object="schedule")


@router.post("/{schedule}/pause")
async def pause_schedule(schedule: ScheduleName, caller: MemberKey, session: DbSession) -> ScheduleObject:
    """Leave out due times from now on. What is due already goes on."""
    return await _shown(session, await manage.pause(session, schedule, project=caller.project))


@router.post("/{schedule}/resume")
async def resume_schedule(schedule: ScheduleName, caller: MemberKey, session: DbSession) -> ScheduleObject:
    """Go on with the next due time; those that were left out are not made up for."""
    return await _shown(session, await manage.resume(session, schedule, project=caller.project))


@router.post("/{schedule}/run", openapi_extra=documented(RunNow))
async def run_schedule(
    schedule: ScheduleName,
    caller: MemberKey,
    request: Annotated[RunNow, json_body(RunNow)],
    *,
    session: DbSession,
    idempotency_key: IdempotencyKey = None,
) -> FiringObject:
    """Fire now, also when paused. The answer is the firing; within seconds a keeper decides about it."""
    firing = await manage.run_now(session, schedule, request, project=caller.project, idempotency_key=idempotency_key)
    return firing_object(firing)


@router.get("/{schedule}/firings", response_model=FiringPage, responses=NOT_MODIFIED)
async def list_firings(
    schedule: ScheduleName,
    caller: MemberKey,
    *,
    session: DbSession,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description=AT_MOST)] = 20,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The schedule's history: each due time with what was decided and why, newest first."""
    found = await store.find(session, schedule, project=caller.project)
    firings = await store.find_firings(session, found, after=after, limit=limit + 1)
    return tagged(FiringPage.of([firing_object(firing) for firing in firings], limit=limit), known=if_none_match)


@router.get(
    "/{schedule}/firings/{firing}",
    response_model=FiringObject,
    responses=NOT_MODIFIED | error_response(429, "As many clients wait as this service takes."),
)
async def retrieve_firing(
    schedule: ScheduleName,
    firing: FiringId,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    watch: FiringWatchDep,
    if_none_match: IfNoneMatch = None,
    wait: Wait = 0,
) -> Response:
    """One due time. With `If-None-Match`, `wait` holds back that nothing has changed for up to so many seconds."""
    async with database.transaction() as session:
        found = await store.find(session, schedule, project=caller.project)
        seen = firing_object(await store.find_firing(session, firing, schedule=found))
    if wait and may_change(seen) and is_known_answer(seen, if_none_match):
        seen = await watch.next_change(seen.id, seen, seconds=wait) or seen
    return tagged(seen, known=if_none_match)


@router.post(
    "/{schedule}/firings/{firing}/verdict",
    openapi_extra=documented(PostVerdict),
    responses=error_response(409, "The firing waits for no verdict, or has another one."),
)
async def post_verdict(
    schedule: ScheduleName,
    firing: FiringId,
    caller: MemberKey,
    request: Annotated[PostVerdict, json_body(PostVerdict)],
    session: DbSession,
) -> FiringObject:
    """Say whether the result is better than the champion. `better` promotes it, unless the champion has changed."""
    return firing_object(await take_verdict(session, schedule, firing, request, caller=caller))


async def _shown(session: AsyncSession, schedule: Schedule) -> ScheduleObject:
    newest = await store.find_newest(session, [schedule.id])
    return schedule_object(schedule, last=newest.get(schedule.id))
