"""Waking workers for jobs that wait, in case a wake-up was lost, and noting why the others wait."""

from dataclasses import dataclass
from datetime import timedelta

from starlette.concurrency import run_in_threadpool

from tunesmith.service.database.tables import Job, Model, WorkerNode
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.jobs.waiting import note_reason
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.planning import corrections as lessons
from tunesmith.service.planning.corrections import MeasuredCorrections
from tunesmith.service.planning.fit import Machine, MachineFit, PlanningQuery, current, find_fit
from tunesmith.service.workers import store as workers
from tunesmith.tuning.job import DatasetFacts, JobSpec

_BATCH = 200
_WAKE_AGAIN = timedelta(seconds=15)


async def wake_for_waiting_jobs(context: KeeperContext) -> set[str]:
    """Note why jobs wait, wake the classes whose idle workers could take one, and return those classes."""
    async with context.database.transaction() as session:
        waiting = await jobs.find_waiting(session, limit=_BATCH)
        live = await workers.find_live(session, silence=context.settings.worker_silence)
        learned = await lessons.measured_corrections(session) if waiting else lessons.NONE
    if not waiting:
        return set()
    fits = await run_in_threadpool(_find_fits, waiting, [current(worker) for worker in live], learned)
    await _note_reasons(context.database, waiting, fits)
    wanted = {worker_class for fit in fits.values() for worker_class in fit.classes}
    idle = {worker.worker_class for worker in live if _is_idle(worker)}
    waking = await _due_to_wake(context.database, wanted & idle)
    for worker_class in waking:
        await run_in_threadpool(context.announcer.wake, worker_class)
    return waking


@dataclass(frozen=True)
class _Question:
    """What the planner's answer about a waiting job depends on. The model is named in `spec`.

    `repeats` names the job whose plan this one must keep, if any.
    """

    spec: JobSpec
    dataset: DatasetFacts
    repeats: str | None

    @classmethod
    def of(cls, job: Job) -> "_Question":
        """Without the seed, which decides nothing about what fits: a sweep over seeds asks once."""
        spec = JobSpec.model_validate(job.spec).model_copy(update={"seed": 0})
        return cls(spec, DatasetFacts.model_validate(job.dataset), repeats=job.reproduces)


def _find_fits(
    waiting: list[tuple[Job, Model]], machines: list[Machine], learned: MeasuredCorrections
) -> dict[str, MachineFit]:
    """By job. The planner is asked once about jobs that it cannot tell apart."""
    answers: dict[_Question, MachineFit] = {}
    fits = {}
    for job, model in waiting:
        question = _Question.of(job)
        if question not in answers:
            answers[question] = find_fit(_query(job, model, learned), machines)
        fits[job.id] = answers[question]
    return fits


def _query(job: Job, model: Model, learned: MeasuredCorrections) -> PlanningQuery:
    return PlanningQuery.of(
        spec=job.spec,
        dataset=job.dataset,
        config=model.config,
        corrections=learned.about(model),
        pinned=job.pinned_plan,
    )


async def _note_reasons(database: Database, waiting: list[tuple[Job, Model]], fits: dict[str, MachineFit]) -> None:
    for job, _model in waiting:
        if job.waiting_reason != fits[job.id].reason:
            async with database.transaction() as session:
                locked = await jobs.lock_waiting(session, job.id)
                if locked is not None:
                    note_reason(session, locked, fits[job.id].reason)


async def _due_to_wake(database: Database, worker_classes: set[str]) -> set[str]:
    """The classes that nobody has woken just now; marked as woken, so that several keepers wake them once."""
    async with database.transaction() as session:
        at = await now(session)
        due = await workers.lock_woken_before(session, worker_classes, moment=at - _WAKE_AGAIN)
        for worker in due:
            worker.woken_at = at
        return {worker.worker_class for worker in due}


def _is_idle(worker: WorkerNode) -> bool:
    return worker.busy_slots < worker.slots and not worker.draining
