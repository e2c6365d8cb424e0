"""Handing a job to a worker: the first in line that fits the hardware that asks, as it is at this moment."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service import events
from tunesmith.service.attempts import store
from tunesmith.service.attempts.claim_answer import Choice, LeaseTerms, answer, answer_again
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Attempt, Job, Model
from tunesmith.service.database.transactions import now
from tunesmith.service.jobs import store as jobs
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.keys.secrets import LEASE_PREFIX, new_secret
from tunesmith.service.planning import corrections as lessons
from tunesmith.service.planning.fit import PlanningQuery, plan_on
from tunesmith.service.workers import quarantine, registry
from tunesmith.tuning.messages import Claim, ClaimRequest
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.state import JobTransition, Phase
from tunesmith.tuning.values.hashes import sha256_of_text

_LONGEST_WALK = 300  # jobs that one claim looks at; each costs the planner a few milliseconds


async def claim(session: AsyncSession, request: ClaimRequest, *, terms: LeaseTerms) -> Claim | None:
    """The best waiting job for this hardware, now this worker's; None when there is none.

    Raises:
        NotFound: the worker is not registered.
    """
    worker = await registry.require(session, request.worker_id, incarnation=request.incarnation)
    at = await now(session)
    worker.last_seen_at = at
    if (earlier := await _find_earlier(session, request)) is not None:
        return await answer_again(session, earlier, request, terms=terms, at=at)
    if await quarantine.is_passed_over(session, worker, silence=terms.worker_silence):
        return None
    line = await jobs.find_waiting(session, limit=_LONGEST_WALK)
    learned = (
        await lessons.measured_corrections(session, worker_class=request.hardware.worker_class)
        if line
        else lessons.NONE
    )
    for waiting, model in line:
        wanted = PlanningQuery.of(
            spec=waiting.spec,
            dataset=waiting.dataset,
            config=model.config,
            corrections=learned.about(model),
            pinned=waiting.pinned_plan,
        )
        plan = await run_in_threadpool(plan_on, wanted, request.hardware)
        if isinstance(plan, str):
            continue
        job = await jobs.lock_waiting(session, waiting.id)
        if job is not None:  # otherwise another worker was faster, or the user cancelled
            choice = Choice(plan, corrections=dict(wanted.corrections_on(request.hardware)))
            return await _start(session, job, model, choice, request=request, terms=terms, at=at)
    return None


async def _find_earlier(session: AsyncSession, request: ClaimRequest) -> Attempt | None:
    """What the same claim was given when it was asked before. Copies of it meet at the lock on the worker's row."""
    if request.claim_id is None:
        return None
    return await store.find_claimed(session, request.worker_id, claim_id=request.claim_id)


async def _start(
    session: AsyncSession,
    job: Job,
    model: Model,
    choice: Choice,
    *,
    request: ClaimRequest,
    terms: LeaseTerms,
    at: datetime,
) -> Claim:
    token = new_secret(LEASE_PREFIX)
    attempt = Attempt(
        id=new_id("attempt"),
        job_id=job.id,
        epoch=job.epoch + 1,
        worker_id=request.worker_id,
        incarnation=request.incarnation,
        worker_class=request.hardware.worker_class,
        claim_id=request.claim_id,
        lease_token_sha256=sha256_of_text(token),
        lease_expires_at=at + timedelta(seconds=terms.lease_seconds),
        phase=Phase.CLAIMED,
        plan=choice.plan.model_dump(mode="json"),
    )
    session.add(attempt)
    _take(session, job, attempt, choice.plan, at=at)
    await session.flush()
    return await answer(session, job, model, choice, attempt=attempt, token=token, terms=terms)


def _take(session: AsyncSession, job: Job, attempt: Attempt, plan: Plan, *, at: datetime) -> None:
    job.epoch = attempt.epoch
    job.attempts_used += 1
    job.plan = attempt.plan
    job.phase = Phase.CLAIMED
    job.total_steps = plan.total_steps
    job.waiting_reason = None
    apply_transition(job, JobTransition.CLAIM, at=at)
    again = "" if attempt.epoch == 1 else f" again (attempt {attempt.epoch})"
    where = {"attempt_id": attempt.id, "worker_id": attempt.worker_id, "worker_class": attempt.worker_class}
    events.append(session, job, f"Fine-tuning job started{again}", data=where)
    reasons = " ".join(reason.text for reason in plan.reasons)
    events.append(session, job, f"Plan: {plan.method} on {attempt.worker_class}. {reasons}"[:2000])
