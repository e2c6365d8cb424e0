"""A job's place in line: why it waits, and moving it."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter

from tunesmith.service.jobs import views
from tunesmith.service.jobs.explain import Explanation, explain
from tunesmith.service.jobs.priority import change_priority
from tunesmith.service.jobs.routes import LineDep
from tunesmith.service.planning.fleet import Answer
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DbSession, SettingsDep
from tunesmith.service.web.parameters import JobId
from tunesmith.tuning.api.jobs import JobObject, JobsAhead, JobWaiting, WaitingFor
from tunesmith.tuning.api.requests.jobs import PriorityChange
from tunesmith.tuning.plan import Plan

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"])


@router.get("/{job_id}/waiting")
async def explain_waiting(job_id: JobId, caller: MemberKey, session: DbSession, settings: SettingsDep) -> JobWaiting:
    """Why the job has not started, what is ahead of it, which workers fit and when it is expected to start."""
    limits = settings.limits_of(caller.project)
    found = await explain(session, job_id, project=caller.project, silence=settings.worker_silence, limits=limits)
    return _waiting(found)


@router.post("/{job_id}/priority", openapi_extra=documented(PriorityChange))
async def change_job_priority(
    job_id: JobId,
    caller: MemberKey,
    *,
    request: Annotated[PriorityChange, json_body(PriorityChange)],
    session: DbSession,
    line: LineDep,
) -> JobObject:
    """Move a job that has not ended forwards or backwards in the line."""
    job = await change_priority(session, job_id, request.priority, caller=caller)
    await session.flush()
    line.forget()
    return views.job_object(job, standing=await line.standing(job, reader=session))


def _waiting(found: Explanation) -> JobWaiting:
    start, ahead = found.expected_start, found.ahead
    return JobWaiting(
        job_id=found.job.id,
        status=found.job.state,
        queue_position=found.place,
        reason=found.reason,
        ahead=None if ahead is None else JobsAhead(own_project=ahead.own, other_projects=ahead.others),
        expected_start=None if start is None else int(start.timestamp()),
        workers=[_waiting_for(answer, found) for answer in found.answers],
        smallest_hardware=found.smallest_hardware,
    )


def _waiting_for(answer: Answer, found: Explanation) -> WaitingFor:
    start = answer.starts_in_seconds
    return WaitingFor(
        worker_class=answer.name,
        workers=answer.workers,
        idle=answer.idle,
        fits=isinstance(answer.decision, Plan),
        refusal=None if isinstance(answer.decision, Plan) else answer.decision.text,
        expected_start=None if start is None else int((found.at + timedelta(seconds=start)).timestamp()),
    )
