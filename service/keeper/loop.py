"""The keeper repairs what a lost message or a dead process leaves behind. Any number of copies may run at once."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service import outbox
from tunesmith.service.announcer import Announcer
from tunesmith.service.attempts import store as attempts
from tunesmith.service.attempts.outcomes import Policy, lose
from tunesmith.service.database.tables import Attempt, Job, Model, WorkerNode
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.jobs.waiting import note_reason
from tunesmith.service.planning import corrections as lessons
from tunesmith.service.planning.corrections import MeasuredCorrections
from tunesmith.service.planning.fit import Machine, MachineFit, PlanningQuery, current, find_fit
from tunesmith.service.settings import Settings
from tunesmith.service.workers import store as workers

log = structlog.get_logger(__name__)

_BATCH = 200
_WAKE_AGAIN_SECONDS = 15.0
_PRUNE_SECONDS = 600.0


@dataclass
class LeaseGrace:
    """Holds back the end of leases for one lease time after anything that kept workers from renewing them.

    `clock` is monotonic. A database that was restarted between two sweeps is recognised by its own start time.
    """

    lease_seconds: float
    expected_gap_seconds: float
    clock: Callable[[], float] = time.monotonic
    _held_until: float = field(init=False)
    _seen_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._seen_at = self.clock()
        self._held_until = self._seen_at + self.lease_seconds  # a keeper that starts knows nothing of the time before

    def saw_database(self, *, up_seconds: float) -> None:
        """The database answered; it has been up for so long."""
        moment = self.clock()
        blind = moment - self._seen_at > 3 * self.expected_gap_seconds
        if blind:
            log.warning("keeper.was_blind", seconds=round(moment - self._seen_at, 1))
        renewable_since = moment if blind else moment - up_seconds
        self._held_until = max(self._held_until, renewable_since + self.lease_seconds)
        self._seen_at = moment

    def missed_database(self) -> None:
        """The database did not answer: when it is back, workers get the time to renew."""
        self._held_until = max(self._held_until, self.clock() + self.lease_seconds)

    @property
    def released(self) -> bool:
        """Whether a lease that has run out may be ended."""
        return self.clock() >= self._held_until


class Keeper:
    """Sweeps every few seconds, and goes on sweeping when the database or the broker is away."""

    def __init__(self, settings: Settings, *, database: Database, announcer: Announcer) -> None:
        self._settings = settings
        self._database = database
        self._announcer = announcer
        self._brake = LeaseGrace(settings.lease_seconds, settings.keeper_seconds + 5)
        self._pruned_at = float("-inf")

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until `stop` is set."""
        log.info("keeper.started", every_seconds=self._settings.keeper_seconds)
        while not stop.is_set():
            try:
                await self.sweep()
            except (SQLAlchemyError, OSError) as error:
                self._brake.missed_database()
                log.warning("keeper.sweep_failed", error=type(error).__name__)
            except Exception:  # a keeper that stops over one odd row leaves every other job unkept
                log.exception("keeper.sweep_failed")
            await _wait(stop, seconds=self._settings.keeper_seconds)
        log.info("keeper.stopped")

    async def sweep(self) -> None:
        """One round over everything that may need repair."""
        async with self._database.transaction() as session:
            self._brake.saw_database(up_seconds=await _up_seconds(session))
        if self._brake.released:
            await self.end_expired_leases()
        await outbox.deliver(self._database, self._announcer)
        await self.ring_for_waiting_jobs()
        await self._prune_sometimes()

    async def end_expired_leases(self) -> int:
        """End attempts whose lease has run out, each in a transaction of its own, and return how many."""
        async with self._database.transaction() as session:
            expired = await attempts.find_expired(session, before=await now(session), limit=_BATCH)
        ended = 0
        for attempt in expired:
            async with self._database.transaction() as session:
                ended += await self._end_if_expired(session, attempt)
        return ended

    async def ring_for_waiting_jobs(self) -> set[str]:
        """Note why jobs wait, wake the classes whose idle workers could take one, and return those classes."""
        async with self._database.transaction() as session:
            waiting = await jobs.find_waiting(session, limit=_BATCH)
            live = await workers.find_live(session, silence=self._settings.worker_silence)
            learned = await lessons.measured_corrections(session) if waiting else lessons.NONE
        if not waiting:
            return set()
        fits = await run_in_threadpool(_find_fits, waiting, [current(worker) for worker in live], learned)
        await self._note_reasons(waiting, fits)
        wanted = {worker_class for fit in fits.values() for worker_class in fit.classes}
        waking = await self._due_to_wake(wanted & {worker.worker_class for worker in live if _is_idle(worker)})
        for worker_class in waking:
            await run_in_threadpool(self._announcer.wake, worker_class)
        return waking

    async def _end_if_expired(self, session: AsyncSession, expired: Attempt) -> int:
        job = await jobs.lock(session, expired.job_id)
        attempt = await session.get_one(Attempt, expired.id)
        at = await now(session)
        if attempt.ended_at is not None or attempt.lease_expires_at >= at:
            return 0  # it was renewed or finished while we waited for the lock
        silent = self._settings.lease_seconds
        reason = f"Worker {attempt.worker_id} has not been heard of for {silent:.0f} s."
        lose(session, job, attempt, at=at, reason=reason, policy=Policy.of(self._settings))
        outbox.wake_later(session, [attempt.worker_class])
        log.warning("attempt.lost", job_id=job.id, attempt_id=attempt.id, worker_id=attempt.worker_id)
        return 1

    async def _note_reasons(self, waiting: list[tuple[Job, Model]], fits: dict[str, MachineFit]) -> None:
        for job, _model in waiting:
            if job.waiting_reason != fits[job.id].reason:
                async with self._database.transaction() as session:
                    locked = await jobs.lock_waiting(session, job.id)
                    if locked is not None:
                        note_reason(session, locked, fits[job.id].reason)

    async def _due_to_wake(self, worker_classes: set[str]) -> set[str]:
        """The classes that nobody has woken just now; marked as woken, so that several keepers wake them once."""
        async with self._database.transaction() as session:
            at = await now(session)
            query = (
                select(WorkerNode)
                .where(WorkerNode.worker_class.in_(worker_classes), _not_rung_since(at))
                .with_for_update(key_share=True, skip_locked=True)
            )
            due = list((await session.execute(query)).scalars())
            for worker in due:
                worker.woken_at = at
            return {worker.worker_class for worker in due}

    async def _prune_sometimes(self) -> None:
        if time.monotonic() - self._pruned_at < _PRUNE_SECONDS:
            return
        async with self._database.transaction() as session:
            await outbox.prune(session)
            await session.execute(text("DELETE FROM idempotency_keys WHERE expires_at < now()"))
        self._pruned_at = time.monotonic()


def _find_fits(
    waiting: list[tuple[Job, Model]], machines: list[Machine], learned: MeasuredCorrections
) -> dict[str, MachineFit]:
    """By job. Jobs that differ only in their seed, such as a sweep over seeds, are planned once."""
    known: dict[str, MachineFit] = {}
    fits = {}
    for job, model in waiting:
        key = f"{model.digest} {job.dataset} { {**job.spec, 'seed': 0} } {job.pinned_plan}"
        if key not in known:
            corrections = learned.about(model)
            wanted = PlanningQuery.of(
                spec=job.spec,
                dataset=job.dataset,
                config=model.config,
                corrections=corrections,
                pinned=job.pinned_plan,
            )
            known[key] = find_fit(wanted, machines)
        fits[job.id] = known[key]
    return fits


def _is_idle(worker: WorkerNode) -> bool:
    return worker.busy_slots < worker.slots and not worker.draining


def _not_rung_since(at: datetime) -> ColumnElement[bool]:
    return func.coalesce(WorkerNode.woken_at, text("'-infinity'")) < at - timedelta(seconds=_WAKE_AGAIN_SECONDS)


async def _up_seconds(session: AsyncSession) -> float:
    age = func.extract("epoch", func.now() - func.pg_postmaster_start_time())
    return float((await session.execute(select(age))).scalar_one())


async def _wait(stop: asyncio.Event, *, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
