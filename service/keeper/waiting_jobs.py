"""Waking workers for jobs that wait, in case a wake-up was lost, and noting why the others wait."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.database.tables import Job, Model, WorkerNode
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.jobs.waiting import note_reason
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.planning import corrections as lessons
from tunesmith.service.planning.corrections import MeasuredCorrections
from tunesmith.service.planning.fit import MachineFit, PlanningQuery, current, fit_of
from tunesmith.service.planning.refusals import MachineKind, Question, Refusals, model_sha256
from tunesmith.service.projects.limits import allowances
from tunesmith.service.queue import store as queue
from tunesmith.service.queue.store import Waiting
from tunesmith.service.queue.walk import in_turn
from tunesmith.service.wakes import store as wakes
from tunesmith.service.workers import store as workers
from tunesmith.tuning.plan import Plan

_ASKED_AT_ONCE = 200  # questions of one sweep; what every machine has refused is known to the next one
_NOTED_AT_ONCE = 200  # jobs whose reason one sweep brings up to date
_WAKE_AGAIN = timedelta(seconds=15)

_refusals = Refusals()  # of this process: an answer depends on its question alone


async def wake_for_waiting_jobs(context: KeeperContext) -> set[str]:
    """Note why jobs wait, wake the classes whose idle workers could take one, and return those classes."""
    async with context.database.transaction() as session:
        live = await workers.find_live(session, silence=context.settings.worker_silence)
        line = await _read_line(session, context)
        learned = await lessons.measured_corrections(session) if line else lessons.NONE
        fleet = _Fleet([MachineKind.of(current(worker).hardware) for worker in live], learned)
        fits, unknown = await _look(session, [alike[0] for alike in line.values()], fleet)
    fits |= await run_in_threadpool(fleet.ask, unknown)
    await _note_reasons(context.database, line, fits)
    wanted = {worker_class for fit in fits.values() for worker_class in fit.classes}
    idle = {worker.worker_class for worker in live if _is_idle(worker)}
    waking = await _due_to_wake(context.database, _wakes(line, fits, live, classes=wanted & idle))
    for worker_class in waking:
        await run_in_threadpool(context.announcer.wake, worker_class)
    return waking


@dataclass(frozen=True)
class _Asked:
    """A question that some machine has not refused, with what the planner needs to answer it."""

    waiting: Waiting
    model: Model
    wanted: PlanningQuery


class _Fleet:
    """The live machines and what they say about jobs. What one has refused is not asked again."""

    def __init__(self, machines: Sequence[MachineKind], learned: MeasuredCorrections) -> None:
        self._machines = machines
        self._learned = learned
        self._models: dict[tuple[str, str], str] = {}

    def query(self, job: Job, model: Model) -> PlanningQuery:
        """The job as the planner is asked about it."""
        return self._learned.query_about(job, model)

    def known(self, waiting: Waiting, model: Model) -> MachineFit | None:
        """That nothing fits, when every machine has said so before."""
        decisions = []
        for machine in self._machines:
            refusal = _refusals.find(self._question(waiting, model, machine))
            if refusal is None:
                return None
            decisions.append((machine.hardware.worker_class, refusal))
        return fit_of(decisions)

    def ask(self, questions: Sequence[_Asked]) -> dict[str, MachineFit]:
        """By question. It takes milliseconds for each machine."""
        return {
            asked.waiting.question_sha256: fit_of(
                (machine.hardware.worker_class, self._decide(asked, machine)) for machine in self._machines
            )
            for asked in questions
        }

    def _decide(self, asked: _Asked, machine: MachineKind) -> Plan | str:
        return _refusals.ask(self._question(asked.waiting, asked.model, machine), asked.wanted, machine)

    def _question(self, waiting: Waiting, model: Model, machine: MachineKind) -> Question:
        worker_class = machine.hardware.worker_class
        if (model.name, worker_class) not in self._models:
            corrections = self._learned.about(model).get(worker_class, {})
            self._models[model.name, worker_class] = model_sha256(model.config, corrections)
        return Question(waiting.question_sha256, self._models[model.name, worker_class], machine.sha256)


async def _read_line(session: AsyncSession, context: KeeperContext) -> dict[str, list[Waiting]]:
    """By question the jobs that the planner cannot tell apart, in turn, for projects that may start one more."""
    allowed = await allowances(session, context.settings)
    line: dict[str, list[Waiting]] = {}
    async for waiting in in_turn(session, is_full=allowed.is_full):
        line.setdefault(waiting.question_sha256, []).append(waiting)
    return line


async def _look(
    session: AsyncSession, first: Sequence[Waiting], fleet: _Fleet
) -> tuple[dict[str, MachineFit], list[_Asked]]:
    """What is known about the questions, and those that the planner must be asked."""
    known: dict[str, MachineFit] = {}
    unknown: list[_Asked] = []
    for waiting in first:
        model = await session.get(Model, waiting.model)
        if model is None:
            continue
        if (fit := fleet.known(waiting, model)) is not None:
            known[waiting.question_sha256] = fit
        elif len(unknown) < _ASKED_AT_ONCE and (asked := await _load(session, waiting, fleet)) is not None:
            unknown.append(asked)
    return known, unknown


async def _load(session: AsyncSession, waiting: Waiting, fleet: _Fleet) -> _Asked | None:
    found = await queue.find(session, waiting.job_id)
    if found is None:
        return None
    job, model = found
    return _Asked(waiting, model, fleet.query(job, model))


async def _note_reasons(
    database: Database, line: Mapping[str, Sequence[Waiting]], fits: Mapping[str, MachineFit]
) -> None:
    changed = (
        (waiting.job_id, fit.reason)
        for question, fit in fits.items()
        for waiting in line[question]
        if waiting.reason != fit.reason
    )
    for job_id, reason in islice(changed, _NOTED_AT_ONCE):
        async with database.transaction() as session:
            locked = await jobs.lock_waiting(session, job_id)
            if locked is not None:
                note_reason(session, locked, reason)


def _wakes(
    line: Mapping[str, Sequence[Waiting]],
    fits: Mapping[str, MachineFit],
    live: Sequence[WorkerNode],
    *,
    classes: set[str],
) -> dict[str, int]:
    """By class, how many of its idle slots have a job to ask for."""
    jobs_of = Counter(dict.fromkeys(classes, 0))
    for question, fit in fits.items():
        jobs_of.update({name: len(line[question]) for name in classes.intersection(fit.classes)})
    idle = Counter[str]()
    for worker in live:
        idle[worker.worker_class] += worker.slots - worker.busy_slots if _is_idle(worker) else 0
    return {name: min(jobs_of[name], idle[name]) for name in classes}


async def _due_to_wake(database: Database, wanted: Mapping[str, int]) -> set[str]:
    """The classes that nobody has woken just now; marked as woken, so that several keepers wake them once."""
    if not wanted:
        return set()
    async with database.transaction() as session:
        at = await now(session)
        due = await workers.lock_woken_before(session, set(wanted), moment=at - _WAKE_AGAIN)
        for worker in due:
            worker.woken_at = at
        waking = {worker.worker_class for worker in due}
        await wakes.add(session, {name: wanted[name] for name in waking})
        return waking


def _is_idle(worker: WorkerNode) -> bool:
    return worker.busy_slots < worker.slots and not worker.draining
