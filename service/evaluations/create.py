"""Creating an evaluation: models, rows and score are checked, then a job of its own kind joins the line."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import File, Job
from tunesmith.service.database.transactions import now
from tunesmith.service.evaluations import models, store
from tunesmith.service.evaluations.models import Evaluated
from tunesmith.service.evaluations.schemas import EvaluationCreate
from tunesmith.service.idempotency.reserve import reserve
from tunesmith.service.jobs.planning_request import check_rows, report_of, usable_file
from tunesmith.service.jobs.start import find_machines, record, start
from tunesmith.service.planning.fit import PlanningQuery
from tunesmith.service.planning.refusals import question_sha256
from tunesmith.service.projects.limits import check_queued, check_stored
from tunesmith.service.settings import ProjectLimits
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.datasets.row_formats import RowFormat
from tunesmith.tuning.errors import DoesNotFit, InvalidRequest, InvalidTrainingFile
from tunesmith.tuning.evaluation import EvaluationSpec, SeenRows
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.planner.checks import impossible
from tunesmith.tuning.scoring.scores import judge_of
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import JobKind

_SEED = 0  # nothing is drawn


@dataclass(frozen=True)
class EvaluationRequest:
    """One create request."""

    asked: EvaluationCreate
    caller: Caller
    idempotency_key: str | None
    max_attempts: int
    worker_silence: timedelta
    limits: ProjectLimits
    meant_by: Callable[[str], str]  # the model that the operator lets a name mean
    seen: tuple[SeenRows, ...] = ()

    @property
    def sha256(self) -> str:
        """The same for the same meaning."""
        return sha256_of_text("evaluation " + json.dumps(self.asked.model_dump(mode="json"), sort_keys=True))


async def create(session: AsyncSession, request: EvaluationRequest) -> Job:
    """Record the evaluation, or find the one that an earlier copy of the request made.

    Raises:
        NotFound: a model that it names does not exist here.
        InvalidRequest: with the field that must change.
        LimitReached: the project has as many jobs in line as it may.
    """
    project, evaluation_id = request.caller.project, new_id("eval")
    if (key := request.idempotency_key) is not None:
        earlier = await reserve(session, key, project=project, request_sha256=request.sha256, job_id=evaluation_id)
        if earlier is not None:
            return await store.find(session, earlier, project=project)
    _check(request.asked)
    await check_stored(session, project, limits=request.limits)
    asked = request.asked
    sides = await models.find_sides(session, asked.model, asked.against, project=project, meant_by=request.meant_by)
    planned = max((side.base for side in sides), key=lambda base: ModelShape.from_config(base.config).parameters)
    spec = _spec(request.asked, sides, model=planned.name)
    file = await usable_file(session, request.asked.file, "file", project=project)
    check_rows(file, "file", objective=spec.objective)
    _require_answers(file, request.asked)
    wanted = PlanningQuery.of(
        spec=spec.model_dump(mode="json"),
        dataset=_facts(file, rows=request.asked.rows).model_dump(mode="json"),
        config=planned.config,
        corrections={},
        pinned=None,
    )
    if refusal := impossible(spec=wanted.spec, shape=wanted.shape, dataset=wanted.dataset):
        raise DoesNotFit(refusal.text, param="file")
    fit = await find_machines(session, wanted, silence=request.worker_silence)
    job = _job(request, evaluation_id=evaluation_id, wanted=wanted)
    (job,) = await record(session, start(job, model=planned, fit=fit, at=await now(session)))
    await check_queued(session, project, limits=request.limits)
    return job


def _check(asked: EvaluationCreate) -> None:
    """What one field allows and another forbids, and whether answers can be scored so."""
    if asked.score is not None:
        judge_of(asked.score)
    elif asked.gate.decide_by == "score":
        raise InvalidRequest(
            "The gate is to decide by a score, and nothing is scored.",
            param="gate.decide_by",
            hint="Send `score` too, or let the gate decide by the loss.",
        )


def _spec(asked: EvaluationCreate, sides: Sequence[Evaluated], *, model: str) -> JobSpec:
    """Planned by the larger base; the other one needs less."""
    evaluation = EvaluationSpec(
        model=sides[0].name,
        against=sides[1].name if len(sides) > 1 else None,
        score=asked.score,
        rows=asked.rows,
        max_answer_tokens=asked.max_answer_tokens,
        rule=asked.gate,
        needs=tuple(sorted({name for side in sides for name in side.needs})),
        adapter_bytes=max(side.adapter_bytes for side in sides),
    )
    return JobSpec(model=model, validation="none", seed=_SEED, evaluation=evaluation)


def _require_answers(file: File, asked: EvaluationCreate) -> None:
    if asked.score is not None and report_of(file).format is RowFormat.TEXT:
        raise InvalidTrainingFile(
            f"Rows of {file.id} are plain texts: none of them has an answer that could be scored.",
            param="score",
            hint="Leave `score` out to measure losses alone, or send rows of chat, or of prompt and completion.",
        )


def _facts(file: File, *, rows: int) -> DatasetFacts:
    """The counts of as many rows as are read."""
    facts = report_of(file).facts()
    share = min(1.0, rows / facts.rows)
    return facts.model_copy(
        update={
            "rows": min(rows, facts.rows),
            "tokens": max(1, round(facts.tokens * share)),
            "supervised_tokens": max(1, round(facts.supervised_tokens * share)),
        }
    )


def _job(request: EvaluationRequest, *, evaluation_id: str, wanted: PlanningQuery) -> Job:
    spec, dataset = wanted.spec.model_dump(mode="json"), wanted.dataset.model_dump(mode="json")
    alike = question_sha256(spec, dataset, repeats=None)
    spec["evaluation"]["seen"] = [seen.model_dump(mode="json") for seen in request.seen]  # no matter of the planner's
    return Job(
        id=evaluation_id,
        kind=JobKind.EVALUATION,
        project=request.caller.project,
        api_key_id=request.caller.key_id,
        request_sha256=request.sha256,
        state=JobState.VALIDATING_FILES,
        event_seq=0,
        spec=spec,
        dataset=dataset,
        question_sha256=alike,
        training_file=request.asked.file,
        labels=dict(request.asked.metadata) if request.asked.metadata is not None else None,
        max_attempts=request.max_attempts,
    )
