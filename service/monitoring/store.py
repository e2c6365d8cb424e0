"""What monitoring counts, asked of the database: every copy of the API gives the same answer."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import Attempt, Firing, Job, Schedule
from tunesmith.service.inference import store as inference
from tunesmith.service.inference.used import Used
from tunesmith.service.leases import lease_time
from tunesmith.service.leases.lease_time import LeasePolicy, LeaseTime
from tunesmith.service.planning.accuracy import Measured, measured_in
from tunesmith.service.plans import store as plans
from tunesmith.service.workers import store as workers
from tunesmith.tuning.state import JobState
from tunesmith.tuning.words import UNDECIDED, UNDER_WAY, FiringState

_RUNS_LOOKED_AT = 500  # the newest of all projects
_STARTS_WITHIN = timedelta(hours=1)
_LATE_AFTER = timedelta(minutes=1)  # a keeper records a due time within seconds


@dataclass(frozen=True)
class Waits:
    """Seconds in the queue: of the job that has waited longest, and of those that started within the last hour."""

    oldest: float
    median: float | None
    ninety_fifth: float | None
    starts: int


@dataclass(frozen=True)
class Nightly:
    """Schedules by whether they are paused or late, and their firings: open ones, and those of a day, by state."""

    active: int
    paused: int
    late: int
    lateness_seconds: float
    open: dict[str, int]
    of_a_day: dict[str, int]


@dataclass(frozen=True)
class Observations:
    """Everything that is exposed. `workers` by (class, what it does), `inference_workers` by (engine, what it does)."""

    jobs: dict[str, int]
    workers: dict[tuple[str, str], int]
    waits: Waits
    leases: LeaseTime
    measured: Sequence[Measured]
    inference_workers: dict[tuple[str, str], int]
    inference_requests: int
    used: Used
    nightly: Nightly


async def observe(session: AsyncSession, *, silence: timedelta, terms: LeasePolicy) -> Observations:
    """Count. Workers silent for longer than `silence` are gone; `terms` are those of leases."""
    serving = await inference.find_live(session, silence=silence)
    rows = await plans.find_measured(session, project=None, limit=_RUNS_LOOKED_AT)
    return Observations(
        jobs=await _jobs_by_state(session),
        workers=await _workers(session, silence=silence),
        waits=await _waits(session),
        leases=await lease_time.read(session, terms),
        measured=list(measured_in(rows)),
        inference_workers=dict(Counter((worker.engine, worker.doing) for worker in serving)),
        inference_requests=sum(worker.requests for worker in serving),
        used=await inference.total_usage(session),
        nightly=await _nightly(session),
    )


async def _jobs_by_state(session: AsyncSession) -> dict[str, int]:
    counts = await session.execute(select(Job.state, func.count()).group_by(Job.state))
    return {state.value: 0 for state in JobState} | {str(state): int(number) for state, number in counts}


async def _workers(session: AsyncSession, *, silence: timedelta) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for worker in await workers.find_live(session, silence=silence):
        doing = "draining" if worker.draining else "busy" if worker.busy_slots >= worker.slots else "idle"
        key = (worker.worker_class, doing)
        found[key] = found.get(key, 0) + 1
    return found


async def _waits(session: AsyncSession) -> Waits:
    oldest = func.extract("epoch", func.now() - func.min(func.greatest(Job.queued_at, Job.not_before)))
    waiting = select(func.coalesce(oldest, 0)).where(Job.state == JobState.QUEUED, Job.not_before <= func.now())
    waited = func.extract("epoch", Attempt.started_at - Job.queued_at)
    started = (
        select(
            func.percentile_cont(0.5).within_group(waited),
            func.percentile_cont(0.95).within_group(waited),
            func.count(),
        )
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.epoch == 1, Attempt.started_at > func.now() - _STARTS_WITHIN, Job.queued_at.is_not(None))
    )
    median, ninety_fifth, starts = (await session.execute(started)).one()
    return Waits(
        oldest=float((await session.execute(waiting)).scalar_one()),
        median=None if median is None else float(median),
        ninety_fifth=None if ninety_fifth is None else float(ninety_fifth),
        starts=starts,
    )


async def _nightly(session: AsyncSession) -> Nightly:
    overdue = and_(Schedule.paused_at.is_(None), Schedule.next_fires_at < func.now() - _LATE_AFTER)
    lateness = func.extract("epoch", func.now() - func.min(Schedule.next_fires_at).filter(overdue))
    schedules = select(
        func.count().filter(Schedule.paused_at.is_(None)),
        func.count().filter(Schedule.paused_at.is_not(None)),
        func.count().filter(overdue),
        func.coalesce(lateness, 0),
    ).where(Schedule.deleted_at.is_(None))
    active, paused, late, lateness_seconds = (await session.execute(schedules)).one()
    is_open = or_(Firing.state.in_(UNDECIDED), Firing.state.in_(UNDER_WAY))
    living = select(Schedule.id).where(Schedule.deleted_at.is_(None))
    lately = and_(Firing.schedule_id.in_(living), Firing.due_at > func.now() - timedelta(days=1), not_(is_open))
    return Nightly(
        active=active,
        paused=paused,
        late=late,
        lateness_seconds=float(lateness_seconds),
        open=await _firings(session, is_open, states=(*UNDECIDED, *UNDER_WAY)),
        of_a_day=await _firings(session, lately, states=set(FiringState) - {*UNDECIDED, *UNDER_WAY}),
    )


async def _firings(
    session: AsyncSession, which: ColumnElement[bool], *, states: Collection[FiringState]
) -> dict[str, int]:
    counts = await session.execute(select(Firing.state, func.count()).where(which).group_by(Firing.state))
    return {state.value: 0 for state in sorted(states)} | {str(state): int(number) for state, number in counts}
