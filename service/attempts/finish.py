"""The last word of an attempt, and what a success leaves behind."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.faults import Point, fault_point
from tunesmith.service import events
from tunesmith.service.artifacts import store as artifacts
from tunesmith.service.attempts import fencing, store
from tunesmith.service.attempts.fencing import Held
from tunesmith.service.attempts.outcomes import Policy, close, decide_next
from tunesmith.service.blobs import intake as blob_intake
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Artifact, Attempt, Job, Model
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.evaluations import results as evaluations
from tunesmith.service.files import intake
from tunesmith.service.jobs.transitions import apply_transition
from tunesmith.service.jobs.views import model_name
from tunesmith.service.metrics import store as metrics
from tunesmith.service.metrics.points import result_csv
from tunesmith.service.workers import quarantine
from tunesmith.tuning.codes import RESULT_KINDS, ArtifactKind, ErrorCode
from tunesmith.tuning.errors import Category, Failure, InvalidRequest
from tunesmith.tuning.evaluation import EvaluatedRow
from tunesmith.tuning.messages import FileRef, FinishReport, set_digest
from tunesmith.tuning.state import JobTransition, Outcome
from tunesmith.tuning.words import JobKind

_UNEXPLAINED = Failure(
    code=ErrorCode.UNEXPLAINED_FAILURE, message="The worker gave no reason.", category=Category.INTERNAL, retryable=True
)


@dataclass(frozen=True)
class _ResultFile:
    """The metrics of a job as the API's CSV, already in the store."""

    received: intake.Received


@dataclass(frozen=True)
class _Rows:
    """What an evaluation measured."""

    rows: list[EvaluatedRow]


_Left = _ResultFile | _Rows


async def finish(
    database: Database, blobs: BlobStore, report: FinishReport, *, attempt_id: str, token: str, policy: Policy
) -> None:
    """Take an attempt's last word; saying the same again is harmless.

    The lease is checked before the result's bytes move and again when they are stored: no lock is held meanwhile.

    Raises:
        Unauthenticated: there is no such attempt, or the token is not its.
        LeaseLost: it no longer owns its job.
        InvalidRequest: a success without a model or an adapter, or an outcome that is not a worker's to report.
    """
    async with database.transaction() as session:
        attempt = await fencing.authenticate(session, attempt_id, token)
        if _is_replay(attempt, report):
            return
        kind = (await fencing.hold(session, attempt)).job.kind
    left = None
    if report.outcome is Outcome.SUCCEEDED:
        left = await _gather(database, blobs, attempt, kind=kind)
    if isinstance(left, Failure):
        report, left = FinishReport(outcome=Outcome.FAILED, failure=left), None
    async with database.transaction() as session:
        held = await fencing.hold_by_token(session, attempt_id, token)
        await _end(session, held, report, left=left, policy=policy)
        await session.flush()
        fault_point(Point.BEFORE_FINISH)
    fault_point(Point.AFTER_FINISH)
    if quarantine.is_hosts_fault(report.failure):
        async with database.transaction() as session:  # of its own: a worker's row is never locked after a job's
            await quarantine.note_spoilt(session, attempt.worker_id)


def _is_replay(attempt: Attempt, report: FinishReport) -> bool:
    """Whether this is the same last word again, from a worker that never heard our answer."""
    return attempt.ended_at is not None and attempt.outcome == report.outcome and attempt.outcome != Outcome.LOST


async def _gather(database: Database, blobs: BlobStore, attempt: Attempt, *, kind: str) -> _Left | Failure:
    """What a success leaves, read and written before the finishing transaction: none is open while bytes move."""
    if kind == JobKind.EVALUATION:
        rows = await evaluations.read_rows(database, blobs, attempt.id)
        return rows if isinstance(rows, Failure) else _Rows(rows)
    return await _write_result_file(database, blobs, attempt)


async def _write_result_file(database: Database, blobs: BlobStore, attempt: Attempt) -> _ResultFile:
    """Store the job's metrics as a file."""
    async with database.transaction() as session:
        points = await metrics.find_points(session, attempt.job_id)
    data = result_csv(points)
    sha256 = await blob_intake.write_bytes(database, blobs, data)
    return _ResultFile(intake.Received(sha256, len(data), report=None))


async def _end(session: AsyncSession, held: Held, report: FinishReport, *, left: _Left | None, policy: Policy) -> None:
    """End the attempt and decide what follows for the job. A job that was told to stop never succeeds."""
    job, attempt = held.job, held.attempt
    if report.outcome is Outcome.LOST:
        raise InvalidRequest("A worker that can say so is not lost.", param="outcome")
    at = await now(session)
    succeeded = report.outcome is Outcome.SUCCEEDED and job.cancel_requested_at is None
    artifact = await _trained(session, attempt) if succeeded and isinstance(left, _ResultFile) else None
    failure = (report.failure or _UNEXPLAINED) if report.outcome is Outcome.FAILED else None
    attempt.result = storable(report.result)
    await _note_last_step(session, held)
    close(attempt, report.outcome, failure=failure, at=at)
    if succeeded and left is not None:
        if artifact is not None and isinstance(left, _ResultFile):
            await _succeed(session, job, artifact, report, result_file=left)
        elif isinstance(left, _Rows):
            await _succeed_measuring(session, job, left.rows, report)
        apply_transition(job, JobTransition.SUCCEED, at=at)
        return
    await session.flush()
    kills = await store.count_kills(session, job.id) if failure else 0
    fruitless = await store.count_fruitless(session, job.id) if report.outcome is Outcome.PREEMPTED else 0
    decide_next(
        session, job, outcome=report.outcome, failure=failure, kills=kills, fruitless=fruitless, at=at, policy=policy
    )


async def _note_last_step(session: AsyncSession, held: Held) -> None:
    """The last heartbeat may be ten seconds and many steps old; every point was shipped before the last word."""
    step = await metrics.last_step(session, held.attempt.id)
    if step is not None and step >= 0:
        held.attempt.step = held.job.step = step


async def _trained(session: AsyncSession, attempt: Attempt) -> Artifact:
    found = await artifacts.find_of_attempt(session, attempt.id)
    for kind in RESULT_KINDS:
        if kind in found:
            return found[kind]
    message = "A success needs an artifact of kind 'adapter' or 'model'; this attempt registered none."
    raise InvalidRequest(message, code=ErrorCode.NO_ARTIFACT, param="outcome")


async def _succeed(
    session: AsyncSession, job: Job, artifact: Artifact, report: FinishReport, *, result_file: _ResultFile
) -> None:
    """Everything about a success but the state itself, which must be the last change to the row."""
    file = await intake.record(
        session,
        result_file.received,
        project=job.project,
        purpose=intake.RESULTS_PURPOSE,
        filename="step_metrics.csv",
    )
    model = await _register(session, job, artifact)
    job.result_files = [file.id]
    job.trained_tokens = report.trained_tokens
    job.result = storable(report.result)
    job.phase = None
    events.append(session, job, f"New fine-tuned model created: {model.name}")
    events.append(session, job, "The job has successfully completed")
    job.fine_tuned_model = model.name


async def _succeed_measuring(session: AsyncSession, job: Job, rows: list[EvaluatedRow], report: FinishReport) -> None:
    """The same of an evaluation: its rows and its verdict."""
    summary = await evaluations.record(session, job, rows)
    job.result = {**storable(report.result), "evaluation": summary}
    job.phase = None
    events.append(session, job, "The evaluation has successfully completed")


async def _register(session: AsyncSession, job: Job, artifact: Artifact) -> Model:
    start = await session.get_one(Model, job.spec["model"])
    files = tuple(FileRef.model_validate(file) for file in artifact.files)
    is_adapter_on_adapter = artifact.kind == start.kind == ArtifactKind.ADAPTER
    model = Model(
        name=model_name(job),
        kind=artifact.kind,
        project=job.project,
        status="ready",
        digest=set_digest(files),
        config=start.config,
        files=artifact.files,
        base_model=start.base_model if is_adapter_on_adapter else start.name,
        job_id=job.id,
    )
    session.add(model)
    await session.flush()
    return model
