"""`POST /v1/fine_tuning/jobs/{id}/reproduce` and `GET .../reproduction`: run it again, and say if it is the same."""

from fastapi import APIRouter, BackgroundTasks

from tunesmith.service.jobs.routes import DeliveriesDep
from tunesmith.service.jobs.views import job_object
from tunesmith.service.reproductions.create import Repetition, repeat
from tunesmith.service.reproductions.verdict import compare_runs
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, SettingsDep
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import IdempotencyKey, JobId
from tunesmith.tuning.api.comparisons.reproductions import ReproductionObject
from tunesmith.tuning.api.jobs import JobObject

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"])


@router.post(
    "/{job_id}/reproduce",
    responses=error_response(409, "The job cannot be repeated as it was, or the same request is being handled."),
)
async def reproduce_job(
    job_id: JobId,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
    deliveries: DeliveriesDep,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
) -> JobObject:
    """Create a job that repeats this one with the same data, base, seed and plan. The plan is not chosen again."""
    repetition = Repetition(
        job_id=job_id,
        caller=caller,
        idempotency_key=idempotency_key,
        max_attempts=settings.max_attempts,
        worker_silence=settings.worker_silence,
        limits=settings.limits_of(caller.project),
    )
    job = await repeat(database, blobs, repetition)
    background.add_task(deliveries.soon)
    return job_object(job, standing=None)


@router.get("/{job_id}/reproduction", responses=error_response(409, "There is nothing to compare, or not yet."))
async def reproduction(job_id: JobId, caller: MemberKey, database: DatabaseDep, blobs: BlobsDep) -> ReproductionObject:
    """Whether the job gave the same bytes and numbers as the one that it repeats, and what about them differs."""
    return await compare_runs(database, blobs, job_id, project=caller.project)
