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
_LONGEST_SECONDS = 0.1  # of one look: a question costs milliseconds for each class
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
        self._forget_known(classes)
        if not self._wanted:
            return
        ends_at = self._clock() + _LONGEST_SECONDS
        live = [emptied(worker) for worker in await workers.find_known(session, within=silence)]
        machines = [machine for machine in live if machine.worker_class in classes]
        learned = await measured_corrections(session)
        for question, job_id in list(self._wanted.items()):
            wanted = await _query(session, job_id, learned)
            if wanted is None:
                self._wanted.pop(question, None)
                continue
            await run_in_threadpool(self._ask, question, wanted, machines, ends_at=ends_at)
            if self._clock() >= ends_at:
                break
        self._forget_known(classes)

    def _ask(self, question: str, wanted: PlanningQuery, machines: Sequence[Machine], *, ends_at: float) -> None:
        """About one machine at least."""
        for machine in machines:
            if self._is_known(question, [machine.worker_class]):
                continue
            self._remember(question, machine.worker_class, fits=_fits(wanted, machine))
            if self._clock() >= ends_at:
                return

    def _is_known(self, question: str, classes: Iterable[str]) -> bool:
        answers = [self._answers.get((question, name)) for name in classes]
        return all(answer is not None and self._clock() - answer.at < _KEPT_SECONDS for answer in answers)

    def _forget_known(self, classes: Iterable[str]) -> None:
        names = list(classes)
        self._wanted = {one: job_id for one, job_id in self._wanted.items() if not self._is_known(one, names)}

    def _remember(self, question: str, name: str, *, fits: bool) -> None:
        self._answers[question, name] = _Answer(fits, self._clock())
        self._answers.move_to_end((question, name))
        while len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)


def _fits(wanted: PlanningQuery, machine: Machine) -> bool:
    try:
        return isinstance(plan_on(wanted, machine.hardware, with_outlook=False), Plan)
    except Exception:  # whatever it was, a job in line must be shown; its worker will meet the same and say so
        log.exception("queue.fit_not_known", worker_class=machine.worker_class)
        return True


async def _query(session: AsyncSession, job_id: str, learned: MeasuredCorrections) -> PlanningQuery | None:
    found = await store.find(session, job_id)
    if found is None:
        return None
    job, model = found
    try:
        return learned.query_about(job, model)
    except Exception:  # a job of another version, for example: no reason to answer nobody
        log.exception("queue.fit_not_known", job_id=job_id)
        return None
