"""Which classes of worker could take the jobs that somebody asks about: the planner is asked once for each question."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple

import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.planning.corrections import MeasuredCorrections, measured_corrections
from tunesmith.service.planning.fit import Machine, PlanningQuery, emptied, plan_on
from tunesmith.service.queue import store
from tunesmith.service.workers import store as workers
from tunesmith.tuning.plan import Plan

log = structlog.get_logger(__name__)

_KEPT_SECONDS: Final = 300.0  # what runs have measured since may change an answer
_AT_ONCE = 8  # questions of one look: each costs milliseconds for a class
_REMEMBERED = 20_000  # answers
_MOST_WANTED = 1000  # questions that wait for a look


class _Answer(NamedTuple):
    fits: bool
    at: float


class Fits:
    """One of a process. An answer is about a machine at rest, whatever occupies it now."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: OrderedDict[tuple[str, str], _Answer] = OrderedDict()  # by question and class
        self._wanted: dict[str, str] = {}  # by question a job that asks it

    def of(self, question: str | None, classes: Collection[str]) -> frozenset[str] | None:
        """Those of the classes that fit; None where that is not known of each, or none does."""
        if question is None:
            return None
        known = {name: self._answers.get((question, name)) for name in classes}
        if None in known.values():
            return None
        return frozenset(name for name, answer in known.items() if answer is not None and answer.fits) or None

    def want(self, question: str | None, job_id: str) -> None:
        """Have the next look find it out."""
        if question is not None and len(self._wanted) < _MOST_WANTED:
            self._wanted[question] = job_id

    async def look(self, session: AsyncSession, classes: Collection[str], *, silence: timedelta) -> None:
        """Ask about some of the questions that are wanted and not known, or known for long."""
        unknown = [question for question in self._wanted if not self._is_known(question, classes)]
        asked = {question: self._wanted[question] for question in unknown[:_AT_ONCE]}
        self._wanted = {question: self._wanted[question] for question in unknown[_AT_ONCE:]}
        if not asked:
            return
        live = [emptied(worker) for worker in await workers.find_known(session, within=silence)]
        machines = [machine for machine in live if machine.worker_class in classes]
        learned = await measured_corrections(session)
        for question, job_id in asked.items():
            wanted = await _query(session, job_id, learned)
            if wanted is not None:
                self._remember(question, await run_in_threadpool(_decide, wanted, machines))

    def _is_known(self, question: str, classes: Iterable[str]) -> bool:
        answers = [self._answers.get((question, name)) for name in classes]
        return all(answer is not None and self._clock() - answer.at < _KEPT_SECONDS for answer in answers)

    def _remember(self, question: str, fits: Sequence[tuple[str, bool]]) -> None:
        for name, is_fit in fits:
            self._answers.pop((question, name), None)
            self._answers[question, name] = _Answer(is_fit, self._clock())
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)


async def _query(session: AsyncSession, job_id: str, learned: MeasuredCorrections) -> PlanningQuery | None:
    found = await store.find(session, job_id)
    if found is None:
        return None
    job, model = found
    try:
        return PlanningQuery.of(
            spec=job.spec,
            dataset=job.dataset,
            config=model.config,
            corrections=learned.about(model),
            pinned=job.pinned_plan,
            files=model.files,
        )
    except Exception:  # a job of another version, for example: no reason to answer nobody
        log.exception("queue.fit_not_known", job_id=job_id)
        return None


def _decide(wanted: PlanningQuery, machines: Sequence[Machine]) -> list[tuple[str, bool]]:
    return [
        (machine.worker_class, isinstance(plan_on(wanted, machine.hardware, with_outlook=False), Plan))
        for machine in machines
    ]
