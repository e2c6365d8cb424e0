"""Creating a job: everything is checked, then recorded in one transaction; asking twice finds the first."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service import events, outbox
from service.auth import Caller
from service.db import now
from service.files import store as files
from service.files.intake import TRAINING_PURPOSE
from service.ids import new_id
from service.jobs import store
from service.jobs.moves import move
from service.jobs.schemas import JobCreate
from service.jobs.waiting import note_reason
from service.models import store as models
from service.tables import File, IdempotencyKey, Job, Model
from service.workers import machines
from service.workers import store as workers
from tuning.checks import impossible
from tuning.errors import DoesNotFit, InvalidRequest, InvalidTrainingFile, NotFound
from tuning.job import DatasetFacts, JobSpec, Objective
from tuning.rows import RowReport
from tuning.state import JobState, JobTransition

_RETRY_WINDOW = timedelta(minutes=10)
_KEY_LIFETIME = timedelta(hours=24)
_KNOWN_FOR = timedelta(days=7)  # a class of machine that was here this recently may come back


@dataclass(frozen=True)
class Submission:
    """One create request. `is_retry` is the SDK's own word that it has sent this before."""

    request: JobCreate
    caller: Caller
    idempotency_key: str | None
    is_retry: bool
    seed: int  # used when the request names none
    max_attempts: int
    worker_silence: timedelta

    @property
    def sha256(self) -> str:
        """The same for the same meaning, whatever the order of keys or the spaces were."""
        canonical = json.dumps(self.request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


async def submit(session: AsyncSession, submission: Submission) -> Job:
    """Record the job, its first events and its wake-up, or find the job that an earlier copy of the request made.

    Raises:
        InvalidRequest: with the field that must change.
        DoesNotFit: the method is forced and no machine known here could ever do it.
    """
    submission.request.check()
    job_id = new_id("ftjob")
    if earlier := await _earlier_job(session, submission, job_id=job_id):
        return earlier
    request, project = submission.request, submission.caller.project
    model = await models.find_ready(session, request.model, project=project)
    spec = request.to_spec(seed=submission.seed)
    training = await _training_file(session, request.training_file, "training_file", spec=spec, project=project)
    validation = None
    if request.validation_file is not None:
        validation = await _training_file(
            session, request.validation_file, "validation_file", spec=spec, project=project
        )
    dataset = _facts(training, validation)
    wanted = machines.Wanted.of(spec=spec.model_dump(), dataset=dataset.model_dump(), config=model.config)
    fit = await _fit(session, wanted, silence=submission.worker_silence)
    job = _job(submission, job_id=job_id, spec=spec, dataset=dataset)
    session.add(job)
    await session.flush()
    _record(session, job, model=model, fit=fit, at=await now(session))
    await session.flush()
    return job


async def _earlier_job(session: AsyncSession, submission: Submission, *, job_id: str) -> Job | None:
    if submission.idempotency_key is not None:
        return await _claim_key(session, submission, key=submission.idempotency_key, job_id=job_id)
    # Copies of one request meet here, so that a retry waits for a first try that is still on its way.
    name = f"{submission.caller.key_id} {submission.sha256}"
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))
    if not submission.is_retry:
        return None
    query = (
        select(Job)
        .where(
            Job.api_key_id == submission.caller.key_id,
            Job.request_sha256 == submission.sha256,
            Job.created_at > func.now() - _RETRY_WINDOW,
        )
        .order_by(Job.id.desc())
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def _claim_key(session: AsyncSession, submission: Submission, *, key: str, job_id: str) -> Job | None:
    """Insert the key for this job, or return the job that has it. The insert waits for a copy that is in flight."""
    if not 1 <= len(key) <= 255:
        raise InvalidRequest("An Idempotency-Key has 1 to 255 characters.", param="Idempotency-Key")
    project, sha256 = submission.caller.project, submission.sha256
    await session.execute(
        text("DELETE FROM idempotency_keys WHERE project = :project AND key = :key AND expires_at < now()"),
        {"project": project, "key": key},
    )
    row = insert(IdempotencyKey).values(
        project=project, key=key, request_sha256=sha256, job_id=job_id, expires_at=func.now() + _KEY_LIFETIME
    )
    inserted = await session.execute(row.on_conflict_do_nothing().returning(IdempotencyKey.job_id))
    if inserted.scalar_one_or_none() is not None:
        return None
    stored = await session.get_one(IdempotencyKey, (project, key))
    if stored.request_sha256 != sha256:
        message = "This Idempotency-Key was used for a different request."
        raise InvalidRequest(message, code="idempotency_key_reused", param="Idempotency-Key")
    return await store.find(session, stored.job_id, project=project)


async def _training_file(session: AsyncSession, file_id: str, param: str, *, spec: JobSpec, project: str) -> File:
    try:
        file = await files.find(session, file_id, project=project)
    except NotFound:
        raise InvalidRequest(f"The file {file_id!r} does not exist.", code="file_not_found", param=param) from None
    if file.purpose != TRAINING_PURPOSE:
        message = f"The file {file_id} has purpose {file.purpose!r}; it must be {TRAINING_PURPOSE!r}."
        raise InvalidTrainingFile(message, code="invalid_file_purpose", param=param)
    if file.status == "error":
        raise InvalidTrainingFile(f"The file {file_id} cannot be used. {file.status_details}", param=param)
    report = _report(file)
    if report.kind != (spec.objective if spec.objective is Objective.DPO else "supervised"):
        wanted = "preference pairs" if spec.objective is Objective.DPO else "chat, prompt and completion, or text"
        message = f"Method {spec.objective.value!r} needs {wanted}; {file_id} holds {report.format} rows."
        raise InvalidTrainingFile(message, param=param)
    return file


def _facts(training: File, validation: File | None) -> DatasetFacts:
    return _report(training).facts(validation_rows=_report(validation).rows if validation else 0)


def _report(file: File) -> RowReport:
    return RowReport.model_validate({key: value for key, value in (file.report or {}).items() if key != "kind"})


async def _fit(session: AsyncSession, wanted: machines.Wanted, *, silence: timedelta) -> machines.Fit:
    if refusal := impossible(spec=wanted.spec, shape=wanted.shape, dataset=wanted.dataset):
        raise DoesNotFit(refusal.text, param=_blamed(refusal.reasons[0].rule))
    fit = machines.find_fit(
        wanted, [machines.current(worker) for worker in await workers.find_live(session, silence=silence)]
    )
    if fit.classes or wanted.spec.method == "auto":
        return fit
    known = [machines.emptied(worker) for worker in await workers.find_known(session, within=_KNOWN_FOR)]
    if known and not (best := machines.find_fit(wanted, known)).classes:
        hint = "Let the method be 'auto', or connect a worker with more memory first."
        raise DoesNotFit(f"No worker known here could do this. {best.reason}", param="tunesmith.method", hint=hint)
    return fit


def _blamed(rule: str) -> str:
    return {"data": "training_file", "context-length": "tunesmith.max_seq_length"}.get(
        rule, "tunesmith.lora.target_modules"
    )


def _job(submission: Submission, *, job_id: str, spec: JobSpec, dataset: DatasetFacts) -> Job:
    request = submission.request
    return Job(
        id=job_id,
        project=submission.caller.project,
        api_key_id=submission.caller.key_id,
        request_sha256=submission.sha256,
        state=JobState.VALIDATING_FILES,
        event_seq=0,
        spec=spec.model_dump(mode="json"),
        dataset=dataset.model_dump(mode="json"),
        training_file=request.training_file,
        validation_file=request.validation_file,
        suffix=request.suffix,
        labels=_labels(request),
        priority=request.tunesmith.priority,
        max_attempts=submission.max_attempts,
    )


def _labels(request: JobCreate) -> dict[str, Any] | None:
    return dict(request.metadata) if request.metadata is not None else None


def _record(session: AsyncSession, job: Job, *, model: Model, fit: machines.Fit, at: datetime) -> None:
    events.append(session, job, f"Created fine-tuning job: {job.id}", data={"model": model.name})
    events.append(session, job, f"Validating training file: {job.training_file}")
    events.append(session, job, "Files validated, moving job to queued state")
    note_reason(session, job, fit.reason)
    move(job, JobTransition.FILES_VALID, at=at)
    outbox.wake_later(session, fit.classes)
