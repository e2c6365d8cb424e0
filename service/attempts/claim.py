"""Handing a job to a worker: the first in line that fits the hardware that asks, as it is at this moment."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service import events
from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Attempt, Job, Model
from tunesmith.service.database.transactions import now
from tunesmith.service.files import store as files
from tunesmith.service.jobs import store as jobs
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.keys.secrets import LEASE_PREFIX, new_secret
from tunesmith.service.planning import corrections as lessons
from tunesmith.service.planning.fit import PlanningQuery, plan_on
from tunesmith.service.workers import registry
from tunesmith.tuning.codes import ArtifactKind
from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.messages import BaseModelRef, Claim, ClaimRequest, FileRef
from tunesmith.tuning.models.shape import MEASURED_SHAPE, ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.state import JobTransition, Phase
from tunesmith.tuning.values.hashes import sha256_of_text
from tunesmith.tuning.words import Method

_LONGEST_WALK = 300  # jobs that one claim looks at; each costs the planner a few milliseconds


@dataclass(frozen=True)
class LeaseTerms:
    """How long a lease lasts and how often it should be renewed."""

    lease_seconds: float
    heartbeat_interval_seconds: float


async def claim(session: AsyncSession, request: ClaimRequest, *, terms: LeaseTerms) -> Claim | None:
    """The best waiting job for this hardware, now this worker's; None when there is none.

    Raises:
        NotFound: the worker is not registered.
    """
    worker = await registry.require(session, request.worker_id, incarnation=request.incarnation)
    at = await now(session)
    worker.last_seen_at = at
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
            choice = _Choice(plan, corrections=dict(wanted.corrections_on(request.hardware)))
            return await _start(session, job, model, choice, request=request, terms=terms, at=at)
    return None


@dataclass(frozen=True)
class _Choice:
    plan: Plan
    corrections: dict[Method, Corrections]  # what the plan was predicted with


async def _start(
    session: AsyncSession,
    job: Job,
    model: Model,
    choice: _Choice,
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
        lease_token_sha256=sha256_of_text(token),
        lease_expires_at=at + timedelta(seconds=terms.lease_seconds),
        phase=Phase.CLAIMED,
        plan=choice.plan.model_dump(mode="json"),
    )
    session.add(attempt)
    _take(session, job, attempt, choice.plan, at=at)
    await session.flush()
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
        base_model=await _base_model(session, model),
        training_file=await files.file_ref(session, job.training_file),
        validation_file=await files.file_ref(session, job.validation_file) if job.validation_file else None,
        resume=await checkpoints.find_to_resume(session, job.id),
    )


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


async def _base_model(session: AsyncSession, model: Model) -> BaseModelRef:
    files = _files(model)
    if model.kind != ArtifactKind.ADAPTER:
        return BaseModelRef(name=model.name, files=files, measured_shape=_measured(model))
    base = await session.get_one(Model, model.base_model)
    return BaseModelRef(
        name=model.name,
        files=files,
        adapter_of=base.name,
        base_files=_files(base),
        measured_shape=_measured(model),
    )


def _measured(model: Model) -> ModelShape | None:
    return ModelShape.from_config(model.config) if MEASURED_SHAPE in model.config else None


def _files(model: Model) -> tuple[FileRef, ...]:
    return tuple(FileRef.model_validate(file) for file in model.files)
