"""`/v1/fine_tuning/plans`: what would happen to a job, and how right earlier predictions were."""

from typing import Annotated

from fastapi import APIRouter, Query

from tunesmith.service.planning.accuracy import current_errors, measured_in
from tunesmith.service.planning.prices import Prices
from tunesmith.service.plans import store
from tunesmith.service.plans.dry_run import forecast
from tunesmith.service.plans.schemas import PlanRequest
from tunesmith.service.plans.views import accuracy_object, error_object, plan_object
from tunesmith.service.tokens.measure import measure
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.parameters import AT_MOST
from tunesmith.tuning.api.accuracy import AccuracyList
from tunesmith.tuning.api.plans import PlanAnswer
from tunesmith.tuning.estimates.measured import measurement_of

router = APIRouter(prefix="/v1/fine_tuning/plans", tags=["fine-tuning plans"])


@router.post("", openapi_extra=documented(PlanRequest))
async def plan_job(
    caller: MemberKey,
    *,
    request: Annotated[PlanRequest, json_body(PlanRequest)],
    session: DbSession,
    settings: SettingsDep,
    database: DatabaseDep,
    blobs: BlobsDep,
) -> PlanAnswer:
    """What each class of worker would do with this job, and when. Nothing is stored."""
    project, file = caller.project, request.training_file
    request = request.model_copy(update={"model": settings.model_meant_by(request.model)})
    scale = await measure(database, blobs, training_file=file, model=request.model, project=project) if file else None
    found = await forecast(session, request, project=project, scale=scale, silence=settings.worker_silence)
    return plan_object(found, prices=Prices(settings.gpu_hour_prices))


@router.get("/accuracy")
async def list_accuracy(
    caller: MemberKey, session: DbSession, limit: Annotated[int, Query(ge=1, le=1000, description=AT_MOST)] = 100
) -> AccuracyList:
    """Predicted beside measured for the project's finished runs, newest first, and what that comes to by kind."""
    rows = await store.find_measured(session, project=caller.project, limit=limit)
    runs = [
        accuracy_object(
            measurement_of(row.plan, row.result),
            attempt_id=row.id,
            job_id=row.job_id,
            worker_class=row.worker_class,
            model=row.model,
            ended_at=int(row.at.timestamp()),
        )
        for row in rows
        if row.succeeded
    ]
    return AccuracyList(data=runs, kinds=[error_object(error) for error in current_errors(measured_in(rows))])
