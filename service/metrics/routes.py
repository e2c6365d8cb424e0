"""`GET /v1/fine_tuning/jobs/{id}/metrics` and `.../samples`: how training goes, in numbers and in words."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool

from tunesmith.service.jobs import store as jobs
from tunesmith.service.metrics import samples, store
from tunesmith.service.metrics.points import list_of_points
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.dependencies import DatabaseDep
from tunesmith.service.web.parameters import JobId
from tunesmith.tuning.api.metrics import MetricPointList, SampleList

router = APIRouter(tags=["fine-tuning jobs"])


@router.get("/v1/fine_tuning/jobs/{job_id}/metrics", response_model=MetricPointList)
async def list_metrics(
    job_id: JobId,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    after_step: Annotated[int, Query(ge=-1, le=2**53, description="Only points behind this step.")] = -1,
) -> Response:
    """One point per step behind `after_step`; where attempts overlap, the newest wins."""
    async with database.reading() as connection:
        job = await jobs.find_head(connection, job_id, project=caller.project)
        chunks = await store.find_chunks(connection, job.id, after_step=after_step)
    # In a thread: the points of a long run took the event loop 200 ms.
    answer = await run_in_threadpool(list_of_points, chunks, after_step=after_step)
    return Response(answer, media_type="application/json")


@router.get("/v1/fine_tuning/jobs/{job_id}/samples")
async def list_samples(job_id: JobId, caller: MemberKey, database: DatabaseDep) -> SampleList:
    """A few held-out prompts, each with the reference and what the model answered at every evaluation."""
    async with database.reading() as connection:
        job = await jobs.find_head(connection, job_id, project=caller.project)
        return SampleList(data=samples.by_prompt(await store.find_sample_reports(connection, job.id)))
