"""Handing a job to a worker: the first in line that fits the hardware that asks, as it is at this moment."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.attempts import store
from tunesmith.service.attempts.choice import Chooser
from tunesmith.service.attempts.claim_answer import LeaseTerms, answer, answer_again, token_for
from tunesmith.service.attempts.outcomes import fail
from tunesmith.service.attempts.same_base import Offer, offers
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Attempt, Job
from tunesmith.service.database.transactions import now
from tunesmith.service.evaluations import models as evaluated
from tunesmith.service.jobs import store as jobs
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.projects.limits import Allowances, may_run_one_more
from tunesmith.service.queue.walk import in_turn
from tunesmith.service.workers import quarantine, registry
from tunesmith.tuning.errors import Category, Failure, InvalidRequest, NotFound
from tunesmith.tuning.messages import Claim, ClaimRequest
from tunesmith.tuning.state import JobTransition, Phase
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.values.units import plural
from tunesmith.tuning.words import JobKind

log = structlog.get_logger(__name__)

_LONGEST_WALK_SECONDS = 3.0  # a worker waits ten for its answer; what was refused by then is skipped by the next walk


async def claim(
    session: AsyncSession,
    request: ClaimRequest,
    *,
    lineage: str,
    terms: LeaseTerms,
    allowed: Allowances,
    clock: Callable[[], float] = time.monotonic,
) -> Claim | None:
    """The best waiting job for this hardware, now this worker's; None when there is none.

    Raises:
        NotFound: the worker is not registered.
        Forbidden: another key registered it.
    """
    worker = await registry.require(session, request.worker_id, incarnation=request.incarnation, lineage=lineage)
    at = await now(session)
    worker.last_seen_at = at
    if (earlier := await _find_earlier(session, request)) is not None:
        return await answer_again(session, earlier, request, terms=terms, at=at)
    if await quarantine.is_passed_over(session, worker, silence=terms.worker_silence):
        return None
    chooser = Chooser(session, request.hardware)
    full: set[str] = set()
    deadline = clock() + _LONGEST_WALK_SECONDS
    last_base = request.last_base
    line = in_turn(session, is_full=allowed.is_full, passed=chooser.refused)
    async for waiting in line:
        choice = None if waiting.project in full else await chooser.choose(waiting)
        if choice is not None:
            async for offer in offers(session, waiting, choice, last_base=last_base, chooser=chooser):
                job = await _lock(session, offer, at=at)
                if job is None:
                    continue
                if await may_run_one_more(session, job.project, limits=allowed.of(job.project)):
                    return await _start(session, job, offer, request=request, terms=terms, at=at)
                full.add(job.project)
                break
            last_base = None  # one look ahead: what it found is being taken by others
        if clock() > deadline:
            log.warning("claim.walk_ended", worker_class=request.hardware.worker_class, asked=chooser.asked)
            return None
    return None


async def _find_earlier(session: AsyncSession, request: ClaimRequest) -> Attempt | None:
    """What the same claim was given when it was asked before. Copies of it meet at the lock on the worker's row."""
    if request.claim_id is None:
        return None
    return await store.find_claimed(session, request.worker_id, claim_id=request.claim_id)


async def _lock(session: AsyncSession, offer: Offer, *, at: datetime) -> Job | None:
    """The job, unless another worker was faster, the user has cancelled it, or it can no longer start."""
    job = await jobs.lock_waiting(session, offer.job_id)
    return None if job is None or await _is_out_of_models(session, job, at=at) else job


async def _is_out_of_models(session: AsyncSession, job: Job, *, at: datetime) -> bool:
    """Whether a model that an evaluation reads is gone since it was created, in which case it has failed now."""
    if job.kind != JobKind.EVALUATION:
        return False
    try:
        await evaluated.find_all(session, job)
    except (NotFound, InvalidRequest) as error:
        failure = Failure(
            code=error.code, message=error.message, param=error.param, hint=error.hint, category=Category.USER_ERROR
        )
        fail(session, job, failure, at=at)
        await session.flush()
        return True
    return False


async def _start(
    session: AsyncSession,
    job: Job,
    offer: Offer,
    *,
    request: ClaimRequest,
    terms: LeaseTerms,
    at: datetime,
) -> Claim:
    token = token_for(request)
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
        plan=offer.choice.plan.model_dump(mode="json"),
    )
    session.add(attempt)
    _take(session, job, attempt, offer, at=at)
    await session.flush()
    return await answer(session, job, offer.choice, attempt=attempt, token=token, terms=terms)


def _take(session: AsyncSession, job: Job, attempt: Attempt, offer: Offer, *, at: datetime) -> None:
    plan = offer.choice.plan
    job.epoch = attempt.epoch
    job.attempts_used += 1
    job.plan = attempt.plan
    job.phase = Phase.CLAIMED
    job.total_steps = plan.total_steps
    job.waiting_reason = None
    apply_transition(job, JobTransition.CLAIM, at=at)
    again = "" if attempt.epoch == 1 else f" again (attempt {attempt.epoch})"
    where = {"attempt_id": attempt.id, "worker_id": attempt.worker_id, "worker_class": attempt.worker_class}
    events.append(session, job, f"{events.noun(job)} started{again}", data=where)
    if offer.passed_over:
        others = plural(len(offer.passed_over), "job")
        why = f"Started before {others} ahead of it in the project's line: the worker used the same base last."
        events.append(session, job, why, data={"passed_over": list(offer.passed_over)})
    reasons = " ".join(reason.text for reason in plan.reasons)
    events.append(session, job, f"Plan: {plan.method} on {attempt.worker_class}. {reasons}"[:2000])
