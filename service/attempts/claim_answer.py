"""What a worker is told about the attempt that it has claimed, once or, if the answer was lost, again."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.attempts.choice import Choice
from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.database.tables import Attempt, Job, Model
from tunesmith.service.evaluations import models as evaluated
from tunesmith.service.files import store as files
from tunesmith.service.jobs import store as jobs
from tunesmith.service.keys.secrets import new_secret
from tunesmith.service.models.references import base_model_ref
from tunesmith.service.planning import corrections as lessons
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.messages import LEASE_PREFIX, BaseModelRef, Claim, ClaimRequest
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import JobKind


@dataclass(frozen=True)
class LeaseTerms:
    """How long a lease lasts, how often it should be renewed, and after which silence a worker is not there."""

    lease_seconds: float
    heartbeat_interval_seconds: float
    worker_silence: timedelta


def token_for(request: ClaimRequest) -> str:
    """The token of the lease: the worker's own, which all copies of its claim carry, or a new one."""
    return request.lease_token or new_secret(LEASE_PREFIX)


async def answer(
    session: AsyncSession, job: Job, choice: Choice, *, attempt: Attempt, token: str, terms: LeaseTerms
) -> Claim:
    """Everything that the worker needs to run the attempt; `token` is the lease's, of which the row has the hash."""
    base_model, *others = await _models(session, job, choice.model)
    return Claim(
        job_id=job.id,
        project=job.project,
        attempt_id=attempt.id,
        epoch=attempt.epoch,
        lease_token=token,
        lease_seconds=terms.lease_seconds,
        heartbeat_interval_seconds=terms.heartbeat_interval_seconds,
        spec=JobSpec.model_validate(job.spec),
        plan=choice.plan,
        is_plan_pinned=job.pinned_plan is not None,
        corrections=choice.corrections,
        dataset=DatasetFacts.model_validate(job.dataset),
        base_model=base_model,
        against=others[0] if others else None,
        training_file=await files.file_ref(session, job.training_file),
        validation_file=await files.file_ref(session, job.validation_file) if job.validation_file else None,
        resume=await checkpoints.find_to_resume(session, job.id),
    )


async def answer_again(
    session: AsyncSession, attempt: Attempt, request: ClaimRequest, *, terms: LeaseTerms, at: datetime
) -> Claim | None:
    """An attempt that this claim has made already; None where it has ended.

    Where the service makes the token, it is a new one: that of the lost answer opens nothing more.
    """
    job = await jobs.lock(session, attempt.job_id)
    await session.refresh(attempt)
    if attempt.ended_at is not None:
        return None
    token = token_for(request)
    attempt.lease_token_sha256 = sha256_of_text(token)
    attempt.lease_expires_at = at + timedelta(seconds=terms.lease_seconds)
    model = await session.get_one(Model, job.spec["model"])
    choice = await _choice_of(session, job, model, attempt, request=request)
    return await answer(session, job, choice, attempt=attempt, token=token, terms=terms)


async def _choice_of(
    session: AsyncSession, job: Job, model: Model, attempt: Attempt, *, request: ClaimRequest
) -> Choice:
    """The plan of the attempt; what it is corrected by is read anew, and as likely as not the same."""
    learned = await lessons.measured_corrections(session)
    query = learned.query_about(job, model)
    return Choice(model, Plan.model_validate(attempt.plan), dict(query.corrections_on(request.hardware)))


async def _models(session: AsyncSession, job: Job, model: Model) -> list[BaseModelRef]:
    """What the attempt starts from; of an evaluation the model, and whom it is compared with if there is one."""
    if job.kind == JobKind.EVALUATION:
        return [one.ref for one in await evaluated.find_all(session, job)]
    return [await base_model_ref(session, model)]
