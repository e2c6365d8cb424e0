"""What the planner says about jobs in line on the machine that asks, without asking again what the machine refused."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.database.tables import Job, Model
from tunesmith.service.planning import corrections as lessons
from tunesmith.service.planning.corrections import MeasuredCorrections
from tunesmith.service.planning.refusals import MachineKind, Question, Refusals, model_sha256
from tunesmith.service.queue import store as queue
from tunesmith.service.queue.store import Waiting
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.words import Method

_refusals = Refusals()  # of this process: an answer depends on its question alone


@dataclass(frozen=True)
class Choice:
    """A plan that fits, for a job that was still in line a moment ago."""

    model: Model
    plan: Plan
    corrections: dict[Method, Corrections]  # what the plan was predicted with


class Chooser:
    """Asks about one job after another for one claim.

    `asked` counts how often the planner was bothered, `refused` holds the questions that this machine has refused.
    """

    def __init__(self, session: AsyncSession, hardware: HardwareProfile, *, refusals: Refusals = _refusals) -> None:
        self.asked = 0
        self.refused: set[str] = set()
        self._session = session
        self._machine = MachineKind.of(hardware)
        self._refusals = refusals
        self._learned: MeasuredCorrections | None = None
        self._models: dict[str, str] = {}

    async def choose(self, waiting: Waiting) -> Choice | None:
        """The job's plan for this machine, unless the machine refuses it or the job is gone."""
        if waiting.question_sha256 in self.refused or self._has_refused(waiting):
            self.refused.add(waiting.question_sha256)
            return None
        found = await queue.find(self._session, waiting.job_id)
        return None if found is None else await self._ask(waiting, *found)

    async def _ask(self, waiting: Waiting, job: Job, model: Model) -> Choice | None:
        wanted = (await self._lessons()).query_about(job, model)
        corrections = dict(wanted.corrections_on(self._machine.hardware))
        self._models[model.name] = model_sha256(model.config, corrections)
        question = self._question(waiting)
        self.asked += self._refusals.find(question) is None
        plan = await run_in_threadpool(self._refusals.ask, question, wanted, self._machine)
        if isinstance(plan, str):
            self.refused.add(waiting.question_sha256)
            return None
        return Choice(model, plan, corrections)

    def _has_refused(self, waiting: Waiting) -> bool:
        return waiting.model in self._models and self._refusals.find(self._question(waiting)) is not None

    async def _lessons(self) -> MeasuredCorrections:
        if self._learned is None:
            self._learned = await lessons.measured_corrections(self._session)
        return self._learned

    def _question(self, waiting: Waiting) -> Question:
        return Question(waiting.question_sha256, self._models[waiting.model], self._machine.sha256)
