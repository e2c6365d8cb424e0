"""Deciding about a firing: there is nothing new, an earlier job is in the way, or a job is made. The reason is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Firing, Job, Schedule
from tunesmith.service.jobs import lifecycle
from tunesmith.service.jobs.submit import Submission, submit
from tunesmith.service.schedules import store
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.failures import end, guarded
from tunesmith.service.schedules.ingredients import Ingredients, find_file, find_ingredients, find_model_name
from tunesmith.service.schedules.owner import owner_of
from tunesmith.service.schedules.schemas import ScheduleSettings
from tunesmith.service.tokens.measure import measure
from tunesmith.tuning.api.requests.jobs import JobCreate
from tunesmith.tuning.datasets.token_scale import TokenScale
from tunesmith.tuning.words import UNDECIDED, FiringState, Overlap

_HOLD = timedelta(seconds=60)  # for which another keeper leaves a firing to the one that took it
_LOOK_AGAIN = timedelta(seconds=5)  # at a firing that waits for the end of a job
_AT_ONCE = 50


async def decide_all(context: ScheduleContext) -> int:
    """Decide about every firing whose data is here, and return about how many that was."""
    async with context.database.transaction() as session:
        at = await context.clock(session)
        taken = await store.take_undecided(session, at=at, hold=_HOLD, limit=_AT_ONCE, is_fetched=True)
    for firing_id in taken:
        await guarded(context, firing_id, Decision(context).make)
    return len(taken)


@dataclass(frozen=True)
class Decision:
    """About one firing, once: whoever decides holds the locks of its schedule and of its own row."""

    context: ScheduleContext

    async def make(self, firing_id: str) -> None:
        """Decide, unless somebody else has done so since the firing was taken."""
        scale = await self._scale(firing_id)
        async with self.context.database.transaction() as session:
            found = await session.get_one(Firing, firing_id)
            schedule = await store.lock(session, found.schedule_id)
            firing = await store.lock_firing(session, firing_id)
            if firing.state in UNDECIDED:
                await self._decide(session, schedule, firing, scale=scale)
                await session.flush()

    async def _scale(self, firing_id: str) -> TokenScale | None:
        """What the model's tokenizer says of the rows, counted while no transaction is open."""
        context = self.context
        async with context.database.transaction() as session:
            firing = await store.get_firing(session, firing_id)
            schedule = await session.get_one(Schedule, firing.schedule_id)
            settings = ScheduleSettings.model_validate(schedule.settings)
            file = await find_file(session, settings, firing, project=schedule.project)
            meant_by = context.settings.model_meant_by
            model = await find_model_name(session, settings, project=schedule.project, meant_by=meant_by)
        return await measure(
            context.database, context.blobs, training_file=file.id, model=model, project=schedule.project
        )

    async def _decide(
        self, session: AsyncSession, schedule: Schedule, firing: Firing, *, scale: TokenScale | None
    ) -> None:
        at = await self.context.clock(session)
        settings = ScheduleSettings.model_validate(schedule.settings)
        meant_by = self.context.settings.model_meant_by
        found = await find_ingredients(session, settings, firing, project=schedule.project, meant_by=meant_by)
        found.record(firing)
        if firing.code is not None or firing.state == FiringState.WAITING:
            firing.code = firing.reason = None  # why it was put off; that is over
        last = await store.find_last_with_job(session, schedule)
        if settings.skip_unchanged and not firing.is_forced and last is not None and found.are_those_of(last):
            reason = f"Data, base and settings are those of {last.job_id}."
            end(firing, FiringState.SKIPPED, at=at, reason=reason)
        elif await self._is_free(session, schedule, firing, overlap=settings.overlap, at=at):
            job = await self._submit(session, schedule, firing, found, settings=settings, scale=scale)
            firing.state, firing.job_id, firing.decided_at = FiringState.SUBMITTED, job.id, at

    async def _is_free(
        self, session: AsyncSession, schedule: Schedule, firing: Firing, *, overlap: Overlap, at: datetime
    ) -> bool:
        """Whether a job may be made now. If not, the firing says why."""
        open_jobs = await store.find_open_jobs(session, schedule)
        if not open_jobs:
            return True
        if overlap is Overlap.CANCEL_PREVIOUS:
            for job_id in open_jobs:
                await lifecycle.cancel(session, job_id, project=schedule.project)
            firing.reason = f"{', '.join(open_jobs)} was cancelled for this one."
            return True
        if overlap is Overlap.SKIP:
            end(firing, FiringState.SKIPPED, at=at, reason=f"{open_jobs[-1]} has not ended.")
        elif await store.has_waiting(session, schedule, but=firing):
            end(firing, FiringState.SKIPPED, at=at, reason=f"Another firing waits for the end of {open_jobs[-1]}.")
        else:
            firing.state, firing.reason = FiringState.WAITING, f"Waits for the end of {open_jobs[-1]}."
            firing.not_before = at + _LOOK_AGAIN
        return False

    async def _submit(
        self,
        session: AsyncSession,
        schedule: Schedule,
        firing: Firing,
        found: Ingredients,
        *,
        settings: ScheduleSettings,
        scale: TokenScale | None,
    ) -> Job:
        """The job is a part of the transaction that decides: there is one for each firing, or none."""
        service = self.context.settings
        labels = {**(settings.job.metadata or {}), "schedule": schedule.name, "firing": firing.id}
        asked = {**settings.job.model_dump(), "model": found.model.name, "metadata": labels}
        submission = Submission(
            request=JobCreate(**asked, training_file=found.file.id),
            caller=await owner_of(session, schedule),
            idempotency_key=None,
            is_retry=False,
            seed=self.context.draw_seed(),
            max_attempts=service.max_attempts,
            worker_silence=service.worker_silence,
            limits=service.limits_of(schedule.project),
            scale=scale,
        )
        return await submit(session, submission)
