"""Creating a job: everything is checked, then recorded in one transaction; asking twice finds the first."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.locks import lock_names
from tunesmith.service.database.tables import Event, Job
from tunesmith.service.database.transactions import now, once
from tunesmith.service.idempotency import store as idempotency
from tunesmith.service.idempotency.reserve import check_key, key_was_used, was_for
from tunesmith.service.jobs import store
from tunesmith.service.jobs.deadlines import deadline_at
from tunesmith.service.jobs.planning_request import read
from tunesmith.service.jobs.priority import check_priority
from tunesmith.service.jobs.start import Start, find_machines, record, start
from tunesmith.service.planning.refusals import question_sha256
from tunesmith.service.projects.limits import check_queued, check_stored, has_room_in_line
from tunesmith.service.settings import ProjectLimits
from tunesmith.service.web.auth import Caller
from tunesmith.tuning.api.requests.jobs import JobCreate
from tunesmith.tuning.datasets.token_scale import TokenScale
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.state import JobState
from tunesmith.tuning.values.hashes import sha256_of_text

_RETRY_WINDOW = timedelta(minutes=10)


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

    @cached_property
    def sha256(self) -> str:
        """The same for the same meaning, whatever the order of keys or the spaces were."""
        canonical = json.dumps(self.request.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return sha256_of_text(canonical)

    @property
    def name_of_copies(self) -> str:
        """Copies of one request wait for one another by it, so that a retry sees a first try that is on its way."""
        if self.idempotency_key is not None:
            return idempotency.lock_name(self.idempotency_key, project=self.caller.project)
        return f"{self.caller.key_id} {self.sha256}"

    def check(self) -> None:
        """Refuse what needs no look at the database.

        Raises:
            InvalidRequest: with the field that must change.
            Forbidden: the priority takes an admin.
        """
        if self.idempotency_key is not None:
            check_key(self.idempotency_key)
        self.request.check()
        check_priority(self.request.tunesmith.priority, role=self.caller.role, param="tunesmith.priority")


async def submit(session: AsyncSession, submission: Submission) -> Job:
    """Record the job, its first events and its wake-up, or find the job that an earlier copy of the request made.

    Raises:
        InvalidRequest: with the field that must change.
        DoesNotFit: the method is forced and no machine known here could ever do it.
        LimitReached: the project has as many jobs in line as it may.
        Forbidden: it stores more than it may, or the priority takes an admin.
    """
    (outcome,) = await submit_all(session, [submission])
    if isinstance(outcome, TunesmithError):
        raise outcome
    return outcome


async def submit_all(session: AsyncSession, submissions: Sequence[Submission]) -> list[Job | TunesmithError]:
    """Record jobs of one project together. What is wrong with one of them is its outcome, and leaves the others alone.

    No two come with the same idempotency key, and a retry comes alone.

    Raises:
        LimitReached: the line has no room for all of them.
        Conflict: an older version of the service is handling a copy of one of them.
    """
    await lock_names(session, [submission.name_of_copies for submission in submissions])
    found = await _earlier(session, submissions)
    outcomes = [earlier or await _prepared(session, one) for one, earlier in zip(submissions, found, strict=True)]
    prepared = [outcome for outcome in outcomes if isinstance(outcome, _Prepared)]
    await _reserve_keys(session, prepared)
    stored = iter(await record(session, *(one.start for one in prepared)))
    if full := next((one for one in prepared if not one.has_room), None):
        await check_queued(session, full.start.job.project, limits=full.submission.limits)
    return [next(stored) if isinstance(outcome, _Prepared) else outcome for outcome in outcomes]


@dataclass(frozen=True)
class _Prepared:
    """What would be stored. Without `has_room` for all that others may be adding, the line is looked at again after."""

    submission: Submission
    start: Start
    has_room: bool


async def _earlier(session: AsyncSession, submissions: Sequence[Submission]) -> list[Job | TunesmithError | None]:
    """For each the job that an earlier copy of it made, if one did."""
    project = submissions[0].caller.project
    keys = [submission.idempotency_key for submission in submissions if submission.idempotency_key is not None]
    known = await idempotency.find(session, keys, project=project) if keys else {}
    jobs = await store.find_many(session, [row.job_id for row in known.values()], project=project) if known else {}
    found: list[Job | TunesmithError | None] = []
    for submission in submissions:
        if (row := known.get(submission.idempotency_key or "")) is None:
            found.append(await _copy(session, submission))
        elif was_for(row, submission.sha256):
            found.append(jobs[row.job_id])
        else:
            found.append(key_was_used())
    return found


async def _copy(session: AsyncSession, submission: Submission) -> Job | None:
    if submission.idempotency_key is not None or not submission.is_retry:
        return None
    key_id = submission.caller.key_id
    return await store.find_copy(session, api_key_id=key_id, request_sha256=submission.sha256, within=_RETRY_WINDOW)


async def _prepared(session: AsyncSession, submission: Submission) -> _Prepared | TunesmithError:
    """Nothing is stored here, so that an error leaves nothing behind."""
    await asyncio.sleep(0)  # planning takes milliseconds, and others may be asking
    try:
        return await _prepare(session, submission)
    except TunesmithError as error:
        return error


async def _prepare(session: AsyncSession, submission: Submission) -> _Prepared:
    submission.check()
    project, limits, request = submission.caller.project, submission.limits, submission.request
    await once(session, ("stored", project), lambda: check_stored(session, project, limits=limits))
    has_room = await has_room_in_line(session, project, limits=limits)
    asked = await read(
        session,
        request.model_copy(update={"model": submission.model or request.model}),
        training_file=request.training_file,
        project=project,
        seed=submission.seed,
        scale=submission.scale,
    )
    at = await once(session, "now", lambda: now(session))
    spec = asked.wanted.spec.model_copy(update={"template_date": at.date()})
    job = _job(submission, spec=spec, dataset=asked.wanted.dataset)
    same = ("machines for", job.question_sha256, submission.worker_silence)  # what is alike to the planner
    fit = await once(session, same, lambda: find_machines(session, asked.wanted, silence=submission.worker_silence))
    job.deadline_at = deadline_at(request.tunesmith.deadline, at=at)
    before = _resolved(submission, job)
    begun = start(job, model=asked.model, fit=fit, at=at, before=before, warnings=asked.warnings)
    return _Prepared(submission, begun, has_room)


async def _reserve_keys(session: AsyncSession, prepared: Sequence[_Prepared]) -> None:
    reservations = [
        idempotency.Reservation(key, one.submission.sha256, one.start.job.id)
        for one in prepared
        if (key := one.submission.idempotency_key) is not None
    ]
    if reservations:
        await idempotency.add(session, reservations, project=prepared[0].start.job.project)


def _job(submission: Submission, *, spec: JobSpec, dataset: DatasetFacts) -> Job:
    request = submission.request
    asked, facts = spec.model_dump(mode="json"), dataset.model_dump(mode="json")
    return Job(
        id=new_id("ftjob"),
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
