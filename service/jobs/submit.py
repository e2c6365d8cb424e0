"""Creating a job: everything is checked, then recorded in one transaction; asking twice finds the first."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.tables import Event, Job, Model
from tunesmith.service.database.transactions import now
from tunesmith.service.idempotency.reserve import reserve
from tunesmith.service.jobs import store
from tunesmith.service.jobs.deadlines import deadline_at
from tunesmith.service.jobs.planning_request import read
from tunesmith.service.jobs.priority import check_priority
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.jobs.waiting import told
from tunesmith.service.outbox import store as outbox
from tunesmith.service.planning import fit as machines
from tunesmith.service.planning.refusals import question_sha256
from tunesmith.service.projects.limits import check_queued, check_stored, has_room_in_line
from tunesmith.service.settings import ProjectLimits
from tunesmith.service.web.auth import Caller
from tunesmith.service.workers import store as workers
from tunesmith.tuning.api.requests.jobs import JobCreate
from tunesmith.tuning.datasets.token_scale import TokenScale
from tunesmith.tuning.errors import DoesNotFit
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.state import JobState, JobTransition
from tunesmith.tuning.values.hashes import sha256_of_text

_RETRY_WINDOW = timedelta(minutes=10)
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
    limits: ProjectLimits
    model: str | None = None  # what the operator lets the request's name for it mean
    scale: TokenScale | None = None  # of tokens that the model's tokenizer counted

    @property
    def sha256(self) -> str:
        """The same for the same meaning, whatever the order of keys or the spaces were."""
        canonical = json.dumps(self.request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return sha256_of_text(canonical)


async def submit(session: AsyncSession, submission: Submission) -> Job:
    """Record the job, its first events and its wake-up, or find the job that an earlier copy of the request made.

    Raises:
        InvalidRequest: with the field that must change.
        DoesNotFit: the method is forced and no machine known here could ever do it.
        LimitReached: the project has as many jobs in line as it may.
        Forbidden: it stores more than it may, or the priority takes an admin.
    """
    submission.request.check()
    check_priority(submission.request.tunesmith.priority, role=submission.caller.role, param="tunesmith.priority")
    job_id = new_id("ftjob")
    if earlier := await _earlier_job(session, submission, job_id=job_id):
        return earlier
    await check_stored(session, submission.caller.project, limits=submission.limits)
    has_room = await has_room_in_line(session, submission.caller.project, limits=submission.limits)
    asked = await read(
        session,
        submission.request.model_copy(update={"model": submission.model or submission.request.model}),
        training_file=submission.request.training_file,
        project=submission.caller.project,
        seed=submission.seed,
        scale=submission.scale,
    )
    fit = await find_machines(session, asked.wanted, silence=submission.worker_silence)
    at = await now(session)
    spec = asked.wanted.spec.model_copy(update={"template_date": at.date()})
    job = _job(submission, job_id=job_id, spec=spec, dataset=asked.wanted.dataset)
    job.deadline_at = deadline_at(submission.request.tunesmith.deadline, at=at)
    await record_start(
        session, job, model=asked.model, fit=fit, at=at, before=_resolved(submission, job), warnings=asked.warnings
    )
    if not has_room:
        await check_queued(session, job.project, limits=submission.limits)
    return job


async def find_machines(
    session: AsyncSession, wanted: machines.PlanningQuery, *, silence: timedelta
) -> machines.MachineFit:
    """Which live machines could take the job, or why it waits.

    Raises:
        DoesNotFit: nothing about the way to train is left to us, and no machine known here could ever do it.
    """
    fit = machines.find_fit(
        wanted, [machines.current(worker) for worker in await workers.find_live(session, silence=silence)]
    )
    if fit.classes or (wanted.spec.method == "auto" and wanted.pinned is None):
        return fit
    known = [machines.emptied(worker) for worker in await workers.find_known(session, within=_KNOWN_FOR)]
    if known and not (best := machines.find_fit(wanted, known)).classes:
        hint = "Let the method be 'auto', or connect a worker with more memory first."
        raise DoesNotFit(f"No worker known here could do this. {best.reason}", param="tunesmith.method", hint=hint)
    return fit


async def record_start(
    session: AsyncSession,
    job: Job,
    *,
    model: Model,
    fit: machines.MachineFit,
    at: datetime,
    before: Sequence[Event] = (),
    warnings: Sequence[str] = (),
) -> None:
    """Store a new job, already in the line, with its first events and its wake-up.

    It has told `before` of itself; `warnings` are about its files.
    """
    history = [
        *before,
        events.new(job, f"Created {events.noun(job).lower()}: {job.id}", data={"model": model.name}),
        events.new(job, f"Validating training file: {job.training_file}"),
        events.new(job, "Files validated, moving job to queued state"),
        *(events.new(job, warning, level="warn") for warning in warnings),
    ]
    job.waiting_reason = fit.reason
    history += told(job)
    apply_transition(job, JobTransition.FILES_VALID, at=at)
    session.add(job)
    await session.flush()  # first, for the events refer to it
    session.add_all(history)
    outbox.wake_later(session, fit.classes)
    await session.flush()


async def _earlier_job(session: AsyncSession, submission: Submission, *, job_id: str) -> Job | None:
    caller, sha256 = submission.caller, submission.sha256
    if (key := submission.idempotency_key) is not None:
        earlier_id = await reserve(session, key, project=caller.project, request_sha256=sha256, job_id=job_id)
        return None if earlier_id is None else await store.find(session, earlier_id, project=caller.project)
    await store.wait_for_copies(session, api_key_id=caller.key_id, request_sha256=sha256)
    if not submission.is_retry:
        return None
    return await store.find_copy(session, api_key_id=caller.key_id, request_sha256=sha256, within=_RETRY_WINDOW)


def _job(submission: Submission, *, job_id: str, spec: JobSpec, dataset: DatasetFacts) -> Job:
    request = submission.request
    asked, facts = spec.model_dump(mode="json"), dataset.model_dump(mode="json")
    return Job(
        id=job_id,
        project=submission.caller.project,
        api_key_id=submission.caller.key_id,
        request_sha256=submission.sha256,
        state=JobState.VALIDATING_FILES,
        event_seq=0,
        spec=asked,
        dataset=facts,
        question_sha256=question_sha256(asked, facts, repeats=None),
        training_file=request.training_file,
        validation_file=request.validation_file,
        suffix=request.suffix,
        labels=_labels(request),
        priority=request.tunesmith.priority,
        max_attempts=request.tunesmith.retry.max_attempts or submission.max_attempts,
    )


def _resolved(submission: Submission, job: Job) -> list[Event]:
    """What the request's name for the model stood for: another job of the same request may start from another one."""
    alias, model = submission.request.model, str(job.spec["model"])
    if alias == model:
        return []
    return [events.new(job, f"{alias} stands for {model}", data={"alias": alias, "model": model})]


def _labels(request: JobCreate) -> dict[str, Any] | None:
    return dict(request.metadata) if request.metadata is not None else None
