"""`/v1/fine_tuning/jobs`: the API's routes, and ours beside them."""

from secrets import randbelow
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.database.tables import Job
from tunesmith.service.events import event_object
from tunesmith.service.jobs import lifecycle, store, views
from tunesmith.service.jobs.schemas import JobCreate
from tunesmith.service.jobs.submit import Submission, submit
from tunesmith.service.jobs.watch import watch
from tunesmith.service.outbox.delivery import deliver_soon
from tunesmith.service.tokens.measure import measure
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import AnnouncerDep, BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import AT_MOST, After, IdempotencyKey, JobId, Order
from tunesmith.tuning.api.history import AttemptList, CheckpointPage, EventPage
from tunesmith.tuning.api.jobs import JobObject, JobPage

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"])

_RETRY_COUNT = "How often the client has sent this before, as OpenAI's clients say: then an equal job is looked for."
_LABEL_FILTER = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    "description": "Only jobs with all of these labels, as `metadata[key]=value`; `metadata=null` finds those without.",
}


@router.post(
    "",
    openapi_extra=documented(JobCreate),
    responses=error_response(409, "The same request is being handled right now; try again in a moment.")
    | error_response(429, "The project has as many jobs in line as it may."),
)
async def create_job(
    caller: MemberKey,
    *,
    request: Annotated[JobCreate, json_body(JobCreate)],
    session: DbSession,
    settings: SettingsDep,
    database: DatabaseDep,
    blobs: BlobsDep,
    announcer: AnnouncerDep,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
    x_stainless_retry_count: Annotated[str, Header(description=_RETRY_COUNT)] = "0",
) -> JobObject:
    """Create a fine-tuning job. It is stored when this answers."""
    submission = Submission(
        request=request,
        caller=caller,
        idempotency_key=idempotency_key,
        is_retry=x_stainless_retry_count not in ("", "0"),
        seed=randbelow(2**31),
        max_attempts=settings.max_attempts,
        worker_silence=settings.worker_silence,
        limits=settings.limits_of(caller.project),
        scale=await measure(
            database, blobs, training_file=request.training_file, model=request.model, project=caller.project
        ),
    )
    job = await submit(session, submission)
    background.add_task(deliver_soon, database, announcer)
    return await _shown(session, job)


@router.get("", openapi_extra={"parameters": [_LABEL_FILTER]})
async def list_jobs(
    request: Request,
    caller: MemberKey,
    session: DbSession,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description=AT_MOST)] = 20,
) -> JobPage:
    """The project's jobs, newest first. `metadata[key]=value` filters, `metadata=null` selects jobs without any."""
    query = request.query_params
    labels = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[") and name.endswith("]")}
    jobs = await store.find_many(
        session,
        project=caller.project,
        after=after,
        limit=limit + 1,
        labels=labels,
        unlabelled=query.get("metadata") == "null",
    )
    positions = await store.queue_positions(session, jobs)
    return JobPage.of([views.job_object(job, queue_position=positions.get(job.id)) for job in jobs], limit=limit)


@router.get("/{job_id}", response_model=JobObject, responses={304: {"description": "Nothing has changed."}})
async def retrieve_job(
    job_id: JobId,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    response: Response,
    if_none_match: Annotated[str | None, Header(description="The `etag` of the job as it is known.")] = None,
    wait: Annotated[float, Query(ge=0, le=60, description="For how many seconds to wait for a change.")] = 0,
) -> JobObject | Response:
    """One job. With `If-None-Match`, 304 when nothing changed; `wait` holds that back for up to so many seconds."""
    seen = await watch(database, job_id, project=caller.project, known_etag=if_none_match, wait_seconds=wait)
    if seen.etag == if_none_match:
        return Response(status_code=304, headers={"etag": seen.etag})
    response.headers["etag"] = seen.etag
    return views.job_object(seen.job, queue_position=seen.queue_position)


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: JobId, caller: MemberKey, session: DbSession) -> JobObject:
    """Cancel. A running job is `running` with `tunesmith.cancel_requested` until its worker has stopped."""
    return await _shown(session, await lifecycle.cancel(session, job_id, project=caller.project))


@router.post("/{job_id}/pause")
async def pause_job(job_id: JobId, caller: MemberKey, session: DbSession) -> JobObject:
    """Pause. A running job keeps running until its checkpoint is safe."""
    return await _shown(session, await lifecycle.pause(session, job_id, project=caller.project))


@router.post("/{job_id}/resume", responses=error_response(429, "The project has as many jobs in line as it may."))
async def resume_job(job_id: JobId, caller: MemberKey, session: DbSession, settings: SettingsDep) -> JobObject:
    """Resume a paused job from its last checkpoint."""
    limits = settings.limits_of(caller.project)
    return await _shown(session, await lifecycle.resume(session, job_id, project=caller.project, limits=limits))


@router.get("/{job_id}/events")
async def list_events(
    job_id: JobId,
    *,
    caller: MemberKey,
    session: DbSession,
    after: After = None,
    order: Order = "desc",
    limit: Annotated[int, Query(ge=1, le=1000, description=AT_MOST)] = 20,
) -> EventPage:
    """The job's history, newest first; `order=asc` reads it forwards, so that `after` follows it."""
    job = await store.find(session, job_id, project=caller.project)
    events = await store.find_events(session, job, after=after, order=order, limit=limit + 1)
    return EventPage.of([event_object(event) for event in events], limit=limit)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: JobId,
    caller: MemberKey,
    session: DbSession,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description=AT_MOST)] = 10,
) -> CheckpointPage:
    """The job's checkpoints, the highest step first."""
    job = await store.find(session, job_id, project=caller.project)
    found = await checkpoints.find_many(session, job.id, after=after, limit=limit + 1)
    return CheckpointPage.of([views.checkpoint_object(job, point) for point in found], limit=limit)


@router.get("/{job_id}/attempts")
async def list_attempts(job_id: JobId, caller: MemberKey, session: DbSession) -> AttemptList:
    """Every try of the job with its plan, its worker and how it ended."""
    job = await store.find(session, job_id, project=caller.project)
    return AttemptList(data=[views.attempt_object(attempt) for attempt in await store.find_attempts(session, job)])


async def _shown(session: AsyncSession, job: Job) -> JobObject:
    positions = await store.queue_positions(session, [job])
    return views.job_object(job, queue_position=positions.get(job.id))
