"""Why a job waits: what is ahead of it, which live workers fit, when they come free, and which hardware would help."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.database.tables import Job, Model
from tunesmith.service.database.transactions import now
from tunesmith.service.jobs import store
from tunesmith.service.planning import corrections as lessons
from tunesmith.service.planning import fleet
from tunesmith.service.planning.fit import PlanningQuery, plan_on
from tunesmith.service.projects import store as projects
from tunesmith.service.projects.limits import why_none_starts
from tunesmith.service.queue import store as queue
from tunesmith.service.queue.outlook import Ahead, outlook
from tunesmith.service.settings import ProjectLimits
from tunesmith.service.workers import store as workers
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.reference_tables import MACHINES
from tunesmith.tuning.state import JobState


@dataclass(frozen=True)
class Explanation:
    """Why a job has not started. Everything but `reason` is about a queued one."""

    job: Job
    at: datetime
    reason: str
    place: int | None = None
    ahead: Ahead | None = None
    answers: list[fleet.Answer] = field(default_factory=list)
    smallest_hardware: str | None = None

    @property
    def expected_start(self) -> datetime | None:
        """On the class that starts it first."""
        starts = [answer.starts_in_seconds for answer in self.answers if answer.starts_in_seconds is not None]
        return self.at + timedelta(seconds=min(starts)) if starts else None


async def explain(
    session: AsyncSession, job_id: str, *, project: str, silence: timedelta, limits: ProjectLimits
) -> Explanation:
    """Look at the job's turn, the line before it and every live worker.

    Raises:
        NotFound: no such job here.
    """
    job = await store.find(session, job_id, project=project)
    at = await now(session)
    turn = await queue.turn_of(session, job_id)
    found = await queue.find(session, job_id)
    if turn is None or found is None:
        return Explanation(job, at, _not_queued(job))
    wanted = await _query(session, *found)
    live = await workers.find_live(session, silence=silence)
    answers, ahead = await outlook(session, wanted, turn=turn.turn, project=project, live=live)
    running = await projects.count_jobs(session, project, state=JobState.RUNNING)
    fits = any(isinstance(answer.decision, Plan) for answer in answers)
    return Explanation(
        job,
        at,
        await why_none_starts(session, project, running, limits=limits)
        or _pausing(job, at=at)
        or _reason(answers, ahead),
        place=turn.place,
        ahead=ahead,
        answers=answers,
        smallest_hardware=None if fits else await run_in_threadpool(_smallest_hardware, wanted),
    )


async def _query(session: AsyncSession, job: Job, model: Model) -> PlanningQuery:
    return (await lessons.measured_corrections(session)).query_about(job, model)


def _not_queued(job: Job) -> str:
    if job.state == JobState.PAUSED:
        return "The job is paused; it waits for somebody to resume it."
    return f"The job is {job.state}: it waits for nothing."


def _pausing(job: Job, *, at: datetime) -> str | None:
    if job.not_before <= at:
        return None
    return f"An attempt has ended; the next one is made in {(job.not_before - at).total_seconds():.0f} s."


def _reason(answers: list[fleet.Answer], ahead: Ahead) -> str:
    if not answers:
        return "No worker is connected. The job starts as soon as one is that fits."
    fitting = [answer for answer in answers if isinstance(answer.decision, Plan)]
    if not fitting:
        return "No connected worker fits: `workers` has the number that forbids each."
    names = ", ".join(answer.name for answer in fitting)
    before = f"ahead of it: {ahead.own} of its project, {ahead.others} of others"
    if any(answer.idle for answer in fitting):
        return f"An idle worker fits ({names}) and takes the job when it next asks; {before}."
    return f"All workers that fit are busy ({names}); {before}."


def _smallest_hardware(wanted: PlanningQuery) -> str | None:
    fits = (name for name in MACHINES if isinstance(plan_on(wanted, what_if(name), with_outlook=False), Plan))
    return next(fits, None)
