"""`/v1/evaluations`: models measured on rows, base against tuned, with rows, report and verdict."""

from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Depends, Path, Query, Request, Response
from fastapi.responses import HTMLResponse

from tunesmith.service.evaluations import store, views
from tunesmith.service.evaluations.compare import Contest, compare
from tunesmith.service.evaluations.create import EvaluationRequest, create
from tunesmith.service.evaluations.follow import EvaluationWatch
from tunesmith.service.evaluations.report import PAGE_POLICY, report_page
from tunesmith.service.evaluations.schemas import EvaluationCreate, VerdictRequest
from tunesmith.service.evaluations.seen_rows import look_for_seen_rows
from tunesmith.service.jobs import lifecycle
from tunesmith.service.jobs.routes import DeliveriesDep, LineDep
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.etags import NOT_MODIFIED, IfNoneMatch, Wait, is_known_answer, tagged
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import AT_MOST, After, IdempotencyKey
from tunesmith.tuning.api.comparisons.evaluations import (
    EvaluatedRowPage,
    EvaluationObject,
    EvaluationPage,
    VerdictObject,
)
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.evaluation import EvaluatedRow
from tunesmith.tuning.gate.verdict import GateRule
from tunesmith.tuning.state import FINAL_STATES

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])

EvaluationId = Annotated[str, Path(description="The evaluation's id, `eval-...`.")]
RowOrder = Annotated[
    Literal["line", "worst"],
    Query(description="As in the file, or those that speak most against the model first."),
]


async def _evaluation_watch(request: Request) -> EvaluationWatch:
    return request.app.state.evaluation_watch  # type: ignore[no-any-return]


EvaluationWatchDep = Annotated[EvaluationWatch, Depends(_evaluation_watch)]


@router.post(
    "",
    openapi_extra=documented(EvaluationCreate),
    responses=error_response(404, "A model that it names does not exist here.")
    | error_response(409, "The same request is being handled right now; try again in a moment.")
    | error_response(429, "The project has as many jobs in line as it may."),
)
async def create_evaluation(
    caller: MemberKey,
    *,
    request: Annotated[EvaluationCreate, json_body(EvaluationCreate)],
    session: DbSession,
    settings: SettingsDep,
    database: DatabaseDep,
    blobs: BlobsDep,
    deliveries: DeliveriesDep,
    line: LineDep,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
) -> EvaluationObject:
    """Measure a model on rows, alone or beside another. It is stored when this answers, and runs on a worker.

    `seen_rows` warns of rows that one of the models was trained on.
    """
    wanted = EvaluationRequest(
        asked=request,
        caller=caller,
        idempotency_key=idempotency_key,
        max_attempts=settings.max_attempts,
        worker_silence=settings.worker_silence,
        limits=settings.limits_of(caller.project),
        seen=await look_for_seen_rows(
            database, blobs, request, project=caller.project, meant_by=settings.model_meant_by
        ),
        meant_by=settings.model_meant_by,
    )
    job = await create(session, wanted)
    background.add_task(deliveries.soon)
    return views.evaluation_object(job, standing=await line.standing(job, reader=session))


@router.get("", response_model=EvaluationPage, responses=NOT_MODIFIED)
async def list_evaluations(
    caller: MemberKey,
    *,
    session: DbSession,
    line: LineDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description=AT_MOST)] = 20,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The project's evaluations, newest first."""
    jobs = await store.find_many(session, project=caller.project, after=after, limit=limit + 1)
    standings = await line.standings(jobs, reader=session)
    page = EvaluationPage.of([views.evaluation_object(job) for job in jobs], limit=limit)
    shown = EvaluationPage.of(
        [views.evaluation_object(job, standing=standings.get(job.id)) for job in jobs], limit=limit
    )
    return tagged(page, known=if_none_match, shown=shown)


@router.get(
    "/{evaluation_id}",
    response_model=EvaluationObject,
    responses=NOT_MODIFIED | error_response(429, "As many clients wait as this service takes."),
)
async def retrieve_evaluation(
    evaluation_id: EvaluationId,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    line: LineDep,
    watch: EvaluationWatchDep,
    if_none_match: IfNoneMatch = None,
    wait: Wait = 0,
) -> Response:
    """One evaluation, with its measures and its verdict once it has ended.

    With `If-None-Match`, `wait` holds back that nothing has changed for up to so many seconds.
    """

    async def look() -> tuple[EvaluationObject, EvaluationObject]:
        """As the `etag` is made of it, and as it is shown: what it waits for at the moment is no change of it."""
        async with database.transaction() as session:
            job = await store.find(session, evaluation_id, project=caller.project)
            standing = await line.standing(job, reader=session)
        return views.evaluation_object(job), views.evaluation_object(job, standing=standing)

    seen, shown = await look()
    if wait and seen.status not in FINAL_STATES and is_known_answer(seen, if_none_match):
        await watch.next_change(seen.id, seen, seconds=wait)
        seen, shown = await look()
    return tagged(seen, known=if_none_match, shown=shown)


@router.post("/{evaluation_id}/cancel")
async def cancel_evaluation(evaluation_id: EvaluationId, caller: MemberKey, session: DbSession) -> EvaluationObject:
    """Cancel. A running one is `running` with `cancel_requested` until its worker has stopped."""
    await store.find(session, evaluation_id, project=caller.project)
    return views.evaluation_object(await lifecycle.cancel(session, evaluation_id, project=caller.project))


@router.post("/{evaluation_id}/verdict", openapi_extra=documented(VerdictRequest))
async def judge_evaluations(
    evaluation_id: EvaluationId,
    caller: MemberKey,
    *,
    request: Annotated[VerdictRequest, json_body(VerdictRequest)],
    session: DbSession,
) -> VerdictObject:
    """Judge a candidate against a champion by evaluations that have ended, with guard rails, and keep the verdict."""
    job = await store.find(session, evaluation_id, project=caller.project)
    verdict = await compare(
        session,
        Contest(evaluation_id, request.champion),
        project=caller.project,
        rule=request.gate or GateRule.model_validate(job.spec["evaluation"]["rule"]),
        guards={name: Contest(one.candidate, one.champion) for name, one in request.guards.items()},
    )
    return VerdictObject(candidate=evaluation_id, champion=request.champion, **dict(verdict))


@router.get("/{evaluation_id}/rows")
async def list_evaluated_rows(
    evaluation_id: EvaluationId,
    caller: MemberKey,
    session: DbSession,
    *,
    order: RowOrder = "line",
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description=AT_MOST)] = 100,
) -> EvaluatedRowPage:
    """Losses and answers row by row; none before it has succeeded."""
    job = await store.find(session, evaluation_id, project=caller.project)
    rows = await store.find_rows(session, job, order=order, after=_line(after), limit=limit + 1)
    return EvaluatedRowPage.of([views.row_object(row) for row in rows], limit=limit)


@router.get("/{evaluation_id}/report", response_class=HTMLResponse)
async def evaluation_report(evaluation_id: EvaluationId, caller: MemberKey, session: DbSession) -> HTMLResponse:
    """All of it as one page for people, which loads nothing from anywhere."""
    job = await store.find(session, evaluation_id, project=caller.project)
    rows = await store.find_rows(session, job, order="worst", after=None, limit=None)
    page = report_page(views.evaluation_object(job), [EvaluatedRow.model_validate(row) for row in rows])
    return HTMLResponse(page, headers={"content-security-policy": PAGE_POLICY})


def _line(after: str | None) -> int | None:
    if after is None:
        return None
    if after.isascii() and after.isdecimal() and len(after) <= 18:
        return int(after)
    raise InvalidRequest(f"No row {after!r:.60} in this evaluation.", code=ErrorCode.INVALID_VALUE, param="after")
