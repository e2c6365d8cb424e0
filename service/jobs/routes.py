"""`/v1/fine_tuning/jobs`: the API's routes, and ours beside them."""

from secrets import randbelow
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.events import event_object
from tunesmith.service.jobs import lifecycle, store, views
from tunesmith.service.jobs.polling.answers import JobAnswers
from tunesmith.service.jobs.polling.event_stream import EventStreams
from tunesmith.service.jobs.polling.known_answers import KnownAnswerRoute
from tunesmith.service.jobs.polling.line import Line
from tunesmith.service.jobs.polling.pages import answer_to, page_of
from tunesmith.service.jobs.polling.watcher import JobWatcher, Sighting, etag
from tunesmith.service.jobs.submit import Submission
from tunesmith.service.jobs.submit_groups import SubmitGroups
from tunesmith.service.outbox.delivery import Deliveries
from tunesmith.service.tokens.measure import measure
from tunesmith.service.web.auth import MemberKey, while_valid
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.etags import NOT_MODIFIED, IfNoneMatch, Wait, is_known
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import AT_MOST, After, IdempotencyKey, JobId, Order
from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.history import AttemptList, CheckpointPage, EventPage, TrackedRunList, TrackedRunObject
from tunesmith.tuning.api.jobs import JobObject, JobPage
from tunesmith.tuning.api.requests.jobs import JobCreate
from tunesmith.tuning.values.json_objects import Json

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"], route_class=KnownAnswerRoute)

_EVENT_STREAM: dict[int | str, Json] = {
    200: {"description": "The events, as a page or as a stream.", "content": {"text/event-stream": {}}},
    204: {"description": "The job has ended and the client has all of its events: it need not come back."},
    **error_response(429, "As many clients wait as this service takes."),
}
_RETRY_COUNT = "How often the client has sent this before, as OpenAI's clients say: then an equal job is looked for."
_LABEL_FILTER = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    "description": "Only jobs with all of these labels, as `metadata[key]=value`; `metadata=null` finds those without.",
}


async def _line(request: Request) -> Line:
    return request.app.state.line  # type: ignore[no-any-return]


async def _watcher(request: Request) -> JobWatcher:
    return request.app.state.watcher  # type: ignore[no-any-return]


async def _answers(request: Request) -> JobAnswers:
    return request.app.state.job_answers  # type: ignore[no-any-return]


async def _event_streams(request: Request) -> EventStreams:
    return request.app.state.event_streams  # type: ignore[no-any-return]


async def _submit_groups(request: Request) -> SubmitGroups:
    return request.app.state.submit_groups  # type: ignore[no-any-return]


async def _deliveries(request: Request) -> Deliveries:
    return request.app.state.deliveries  # type: ignore[no-any-return]


SubmitGroupsDep = Annotated[SubmitGroups, Depends(_submit_groups)]
DeliveriesDep = Annotated[Deliveries, Depends(_deliveries)]
LineDep = Annotated[Line, Depends(_line)]
AnswersDep = Annotated[JobAnswers, Depends(_answers)]
WatcherDep = Annotated[JobWatcher, Depends(_watcher)]
EventStreamsDep = Annotated[EventStreams, Depends(_event_streams)]


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
    groups: SubmitGroupsDep,
    settings: SettingsDep,
    database: DatabaseDep,
    blobs: BlobsDep,
    deliveries: DeliveriesDep,
    line: LineDep,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
    x_stainless_retry_count: Annotated[str, Header(description=_RETRY_COUNT)] = "0",
) -> JobObject:
    """Create a fine-tuning job. It is stored when this answers."""
    model = settings.model_meant_by(request.model)
    submission = Submission(
        request=request,
        caller=caller,
        idempotency_key=idempotency_key,
        is_retry=x_stainless_retry_count not in ("", "0"),
        seed=randbelow(2**31),
        max_attempts=settings.max_attempts,
        worker_silence=settings.worker_silence,
        limits=settings.limits_of(caller.project),
        model=model,
        scale=await measure(database, blobs, training_file=request.training_file, model=model, project=caller.project),
    )
    job = await groups.submit(submission)
    background.add_task(deliveries.soon)
    async with database.reading() as connection:
        standing = await line.standing(job, reader=connection)
    return views.job_object(job, standing=standing)


@router.get("", response_model=JobPage, openapi_extra={"parameters": [_LABEL_FILTER]})
async def list_jobs(
    request: Request,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    line: LineDep,
    answers: AnswersDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100, description=AT_MOST)] = 20,
) -> Response:
    """The project's jobs, newest first. `metadata[key]=value` filters, `metadata=null` selects jobs without any."""
    query = request.query_params
    labels = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[") and name.endswith("]")}
    async with database.reading() as connection:
        newest = await store.find_newest(
            connection,
            project=caller.project,
            after=after,
            limit=limit + 1,
            labels=labels,
            unlabelled=query.get("metadata") == "null",
        )
        standings = await line.standings(newest, reader=connection)
        page = await page_of(newest, limit=limit, standings=standings, answers=answers, connection=connection)
    return Response(page, media_type="application/json")


@router.get(
    "/{job_id}",
    response_model=JobObject,
    responses=NOT_MODIFIED | error_response(429, "As many clients wait as this service takes."),
)
async def retrieve_job(
    job_id: JobId,
    caller: MemberKey,
    *,
    database: DatabaseDep,
    watcher: WatcherDep,
    line: LineDep,
    answers: AnswersDep,
    if_none_match: IfNoneMatch = None,
    wait: Wait = 0,
) -> Response:
    """One job. With `If-None-Match`, 304 when nothing changed; `wait` holds that back for up to so many seconds."""
    if if_none_match is not None:
        seen = await _sighting(watcher, job_id, project=caller.project)
        if wait and is_known(seen.etag, if_none_match) and not seen.is_final:
            seen = await _changed(watcher, job_id, seen, seconds=wait)
        if is_known(seen.etag, if_none_match):
            return Response(status_code=304, headers={"etag": seen.etag})
    async with database.reading() as connection:
        job = await store.find_row(connection, job_id, project=caller.project)
        standing = await line.standing(job, reader=connection)
    answer = answers.keep(job_id, answer_to(job, standing=standing))
    return Response(answer.body, media_type="application/json", headers={"etag": etag(job.version)})


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: JobId, caller: MemberKey, session: DbSession, line: LineDep) -> JobObject:
    """Cancel. A running job is `running` with `tunesmith.cancel_requested` until its worker has stopped."""
    job = await lifecycle.cancel(session, job_id, project=caller.project)
    return views.job_object(job, standing=await line.standing(job, reader=session))


@router.post("/{job_id}/pause")
async def pause_job(job_id: JobId, caller: MemberKey, session: DbSession, line: LineDep) -> JobObject:
    """Pause. A running job keeps running until its checkpoint is safe."""
    job = await lifecycle.pause(session, job_id, project=caller.project)
    return views.job_object(job, standing=await line.standing(job, reader=session))


@router.post("/{job_id}/resume", responses=error_response(429, "The project has as many jobs in line as it may."))
async def resume_job(
    job_id: JobId, caller: MemberKey, *, session: DbSession, line: LineDep, settings: SettingsDep
) -> JobObject:
    """Resume a paused job from its last checkpoint."""
    limits = settings.limits_of(caller.project)
    job = await lifecycle.resume(session, job_id, project=caller.project, limits=limits)
    return views.job_object(job, standing=await line.standing(job, reader=session))


@router.get("/{job_id}/events", response_model=EventPage, responses=_EVENT_STREAM)
async def list_events(
    request: Request,
    job_id: JobId,
    *,
    caller: MemberKey,
    database: DatabaseDep,
    watcher: WatcherDep,
    streams: EventStreamsDep,
    after: After = None,
    order: Order = "desc",
    limit: Annotated[int, Query(ge=1, le=1000, description=AT_MOST)] = 20,
    stream: Annotated[bool, Query(description="Every event as a server-sent event, then those to come.")] = False,
    accept: Annotated[str, Header(description="`text/event-stream` for the same.")] = "",
    last_event_id: Annotated[str | None, Header(description="Where a stream goes on, instead of `after`.")] = None,
) -> Response:
    """The job's history, newest first; `order=asc` reads it forwards, so that `after` follows it.

    As a stream it is told from its beginning or from behind the event of `Last-Event-ID`, goes on while the job
    lives, and closes with an event named `end`. A stream may close earlier; its client comes back where it was.
    """
    if not stream and "text/event-stream" not in accept:
        async with database.reading() as connection:
            job = await store.find_head(connection, job_id, project=caller.project)
            events = await store.find_events(connection, job, after=after, order=order, limit=limit + 1)
        return _json(EventPage.of([event_object(event) for event in events], limit=limit))
    seen = await _sighting(watcher, job_id, project=caller.project)
    place = last_event_id or after
    # Told by another process, an event may be newer than what was seen here: such a place is believed.
    named = "Last-Event-ID" if last_event_id else "after"
    after_seq = store.seq_of(place, job_id, last_seq=2**53, param=named) if place else 0
    if place and seen.is_final and seen.event_seq == after_seq:
        return Response(status_code=204)
    watcher.require_place()
    return StreamingResponse(
        while_valid(request, streams.tell(job_id, seen, after_seq=after_seq)),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


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


@router.get("/{job_id}/trackers")
async def list_tracked_runs(job_id: JobId, caller: MemberKey, database: DatabaseDep) -> TrackedRunList:
    """Where trackers show the job's runs."""
    async with database.reading() as connection:
        job = await store.find_head(connection, job_id, project=caller.project)
        told = await store.find_tracked_runs(connection, job)
    return TrackedRunList(data=[TrackedRunObject(tracker=data["tracker"], url=data["url"]) for data in told])


async def _sighting(watcher: JobWatcher, job_id: str, *, project: str) -> Sighting:
    return _visible(await watcher.look(job_id), job_id, project=project)


async def _changed(watcher: JobWatcher, job_id: str, seen: Sighting, *, seconds: float) -> Sighting:
    watcher.require_place()
    with watcher.place():
        return _visible(await watcher.next_change(job_id, seen, seconds=seconds), job_id, project=seen.project)


def _visible(seen: Sighting | None, job_id: str, *, project: str) -> Sighting:
    if seen is None or seen.project != project:
        raise store.no_such_job(job_id)
    return seen


def _json(answer: Answer) -> Response:
    """The answer as it is sent. FastAPI would check and copy each part of it first."""
    return Response(answer.model_dump_json(), media_type="application/json")
