"""What becomes of a firing when its job has ended: its result is promoted, refused, or waits for a verdict."""

from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.aliases.change import ANYTHING, Author, Expected, set_alias
from tunesmith.service.database.tables import Firing, Job, Schedule
from tunesmith.service.database.transactions import is_away, now
from tunesmith.service.schedules import store
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.failures import end
from tunesmith.service.schedules.schemas import PostVerdict, ScheduleSettings
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, Outdated
from tunesmith.tuning.state import FINAL_STATES, JobState
from tunesmith.tuning.words import FiringState, Promotion

log = structlog.get_logger(__name__)

_AT_ONCE = 200


async def settle_all(context: ScheduleContext) -> int:
    """Settle firings whose job has ended, each in a transaction of its own, and return how many there were."""
    async with context.database.transaction() as session:
        ended = await store.find_ended(session, limit=_AT_ONCE)
    for found in ended:
        try:
            await _settle_one(context, found.id, schedule_id=found.schedule_id)
        except Exception as error:
            if is_away(error):
                raise
            log.exception("schedule.firing_not_settled", firing=found.id)
    return len(ended)


async def _settle_one(context: ScheduleContext, firing_id: str, *, schedule_id: str) -> None:
    async with context.database.transaction() as session:
        schedule = await store.lock(session, schedule_id)
        firing = await store.lock_firing(session, firing_id)
        await _settle(session, schedule, firing, at=await context.clock(session))
        await session.flush()


async def take_verdict(
    session: AsyncSession, name_or_id: str, firing_id: str, posted: PostVerdict, *, caller: Caller
) -> Firing:
    """Promote or refuse the result that waits for this verdict. The same verdict again changes nothing.

    A result is promoted only in the place of the champion that it was compared with.

    Raises:
        NotFound: no such schedule or firing.
        Outdated: the firing waits for no verdict.
    """
    schedule = await store.find(session, name_or_id, project=caller.project, lock=True)
    await store.find_firing(session, firing_id, schedule=schedule)
    firing = await store.lock_firing(session, firing_id)
    given = {**posted.model_dump(mode="json"), "by": caller.key_id}
    if firing.verdict is not None and {**firing.verdict, "by": None} == {**given, "by": None}:
        return firing
    at = await now(session)
    await _settle(session, schedule, firing, at=at)
    if firing.state != FiringState.AWAITING_VERDICT:
        raise Outdated(
            f"{firing.id} is {firing.state} and waits for no verdict.",
            code=ErrorCode.NO_VERDICT_EXPECTED,
            param="firing",
            hint="Only a schedule with promotion on_verdict waits for one, once, when the job has succeeded.",
        )
    firing.verdict = given
    await carry_out(session, schedule, firing, posted, author_key=caller.key_id, at=at)
    await session.flush()
    return firing


async def carry_out(
    session: AsyncSession, schedule: Schedule, firing: Firing, posted: PostVerdict, *, author_key: str, at: datetime
) -> None:
    """Promote or refuse as the verdict says."""
    if posted.verdict == "better":
        champion = posted.champion or firing.champion
        await _promote(
            session, schedule, firing, author_key=author_key, expected=champion, at=at, because=posted.summary
        )
    else:
        because = posted.summary or f"The verdict is {posted.verdict.replace('_', ' ')}."
        end(firing, FiringState.REFUSED, at=at, reason=because)


async def _settle(session: AsyncSession, schedule: Schedule, firing: Firing, *, at: datetime) -> None:
    if firing.state != FiringState.SUBMITTED:
        return
    job = await session.get_one(Job, firing.job_id)
    if job.state not in FINAL_STATES:
        return
    if job.state == JobState.SUCCEEDED:
        firing.model = job.fine_tuned_model
        await _judge(session, schedule, firing, at=at)
    elif job.state == JobState.CANCELLED:
        end(firing, FiringState.CANCELLED, at=at, reason=f"{job.id} was cancelled.")
    else:
        failure = job.failure or {}
        end(firing, FiringState.FAILED, at=at, reason=failure.get("message"), code=failure.get("code"))


async def _judge(session: AsyncSession, schedule: Schedule, firing: Firing, *, at: datetime) -> None:
    """By the settings that the schedule has now."""
    settings = ScheduleSettings.model_validate(schedule.settings)
    if schedule.deleted_at is not None:
        end(firing, FiringState.TRAINED, at=at, reason="The schedule was deleted before the job had ended.")
    elif settings.promotion is Promotion.NEVER:
        end(firing, FiringState.TRAINED, at=at, reason=firing.reason)
    elif settings.promotion is Promotion.ON_VERDICT:
        firing.state, firing.reason = FiringState.AWAITING_VERDICT, "Waits for a verdict."
    elif await store.is_overtaken(session, firing):
        end(firing, FiringState.TRAINED, at=at, reason="The result of a later firing has been promoted.")
    else:
        await _promote(session, schedule, firing, author_key=schedule.api_key_id, expected=ANYTHING, at=at)


async def _promote(
    session: AsyncSession,
    schedule: Schedule,
    firing: Firing,
    *,
    author_key: str,
    expected: Expected,
    at: datetime,
    because: str | None = None,
) -> None:
    """Let the alias stand for the result, unless it stands for another model than the one compared with."""
    settings = ScheduleSettings.model_validate(schedule.settings)
    due = firing.due_at.isoformat(timespec="minutes")
    reason = f"{schedule.name}, due {due}: {because or 'promoted always'}"
    author = Author(schedule.project, author_key, reason=reason[:512], firing_id=firing.id)
    try:
        await set_alias(session, str(settings.alias), str(firing.model), author=author, expected=expected)
    except Outdated as error:
        end(firing, FiringState.REFUSED, at=at, reason=error.message, code=error.code)
    except InvalidRequest as error:
        end(firing, FiringState.FAILED, at=at, reason=error.message, code=error.code)
    else:
        end(firing, FiringState.PROMOTED, at=at, reason=because)
