"""What a worker says while it works. Each function gets a job and an attempt that are locked and fenced."""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.attempts.fencing import Held
from tunesmith.service.attempts.store import file_ref
from tunesmith.service.blobs import store
from tunesmith.service.database.ids import new_id
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Artifact, Attempt, Checkpoint, Job, Model
from tunesmith.service.database.transactions import now
from tunesmith.service.metrics import points
from tunesmith.service.metrics import store as metrics
from tunesmith.service.models.names import check_file_name
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.messages import (
    ArtifactReport,
    AttemptHeartbeat,
    CanaryReport,
    CheckpointReport,
    EventReport,
    FileRef,
    HeartbeatReply,
    MetricChunk,
    PhaseReport,
)

_LONGEST_MESSAGE = 4000


async def heartbeat(
    session: AsyncSession, held: Held, beat: AttemptHeartbeat, *, lease_seconds: float
) -> HeartbeatReply:
    """Extend the lease by the database's clock, note the progress, and pass on what the user asked for."""
    job, attempt = held.job, held.attempt
    at = await now(session)
    attempt.lease_expires_at = at + timedelta(seconds=lease_seconds)
    attempt.phase = job.phase = beat.phase
    if beat.step is not None:
        attempt.step = job.step = beat.step
    if beat.total_steps is not None:
        job.total_steps = beat.total_steps
    if beat.eta_seconds is not None and storable(beat.eta_seconds) is not None:
        job.eta_seconds = min(max(beat.eta_seconds, 0.0), 10.0**9)
        job.estimated_finish_at = at + timedelta(seconds=job.eta_seconds)
    return HeartbeatReply(cancel=job.cancel_requested_at is not None, pause=job.pause_requested_at is not None)


def phase(held: Held, report: PhaseReport) -> None:
    """A phase was reached, perhaps with a plan that the worker's last look at free memory changed."""
    job, attempt = held.job, held.attempt
    attempt.phase = job.phase = report.phase
    if report.plan is None:
        return
    plan = report.plan.model_dump(mode="json")
    if plan != attempt.plan:
        attempt.plan = job.plan = plan
        job.total_steps = report.plan.total_steps


def event(session: AsyncSession, held: Held, report: EventReport) -> None:
    """One line for the job's history."""
    events.append(session, held.job, report.message[:_LONGEST_MESSAGE], level=report.level, data=report.data)


def canary(held: Held, report: CanaryReport) -> None:
    """What one micro-step before training measured; a replay says the same again."""
    held.attempt.canary = storable(report.model_dump(mode="json", exclude_none=True))


async def metric_chunk(session: AsyncSession, held: Held, chunk: MetricChunk) -> None:
    """Store points, and tell the history about some of them. Replays change nothing.

    Raises:
        InvalidRequest: a point has no step, or the offsets are no range.
    """
    if chunk.end_offset <= chunk.start_offset:
        raise InvalidRequest("end_offset must lie behind start_offset.", param="end_offset")
    clean = [storable(point) for point in chunk.points]
    if not all(_has_step(point) for point in clean):
        raise InvalidRequest("Every point needs a step.", param="points")
    job = held.job
    for point in await metrics.add_chunk(session, held.attempt, chunk, clean):
        if points.worth_an_event(point, total_steps=job.total_steps, after_step=job.metric_event_step):
            message = points.event_message(point, total_steps=job.total_steps)
            events.append(session, job, message, kind="metrics", data={"total_steps": job.total_steps, **point})
            job.metric_event_step = max(job.metric_event_step, int(point["step"]))


async def checkpoint(session: AsyncSession, held: Held, report: CheckpointReport) -> None:
    """Register a checkpoint. The same step of a later attempt takes the place of the earlier one.

    Raises:
        InvalidRequest: a file is not in the store, or none of them is the manifest.
    """
    await _check_set(session, report.files)
    if report.manifest_sha256 not in {file.sha256 for file in report.files}:
        raise InvalidRequest("The manifest is not one of the files.", param="manifest_sha256")
    values = {
        "attempt_id": held.attempt.id,
        "manifest_sha256": report.manifest_sha256,
        "files": [file.model_dump() for file in report.files],
        "metrics": storable(report.metrics),
        "created_at": func.now(),
    }
    row = insert(Checkpoint).values(id=new_id("ftckpt"), job_id=held.job.id, step=report.step, **values)
    stored = row.on_conflict_do_update(index_elements=[Checkpoint.job_id, Checkpoint.step], set_=values)
    is_new = not await _has_checkpoint(session, held.attempt, step=report.step)
    await session.execute(stored)
    if is_new:
        events.append(session, held.job, f"Checkpoint created at step {report.step}", data={"step": report.step})


async def artifact(session: AsyncSession, held: Held, report: ArtifactReport) -> None:
    """Register a result. Sending the same kind again replaces it.

    Raises:
        InvalidRequest: a file is not in the store.
    """
    await _check_set(session, report.files)
    values = {"files": [file.model_dump() for file in report.files], "details": storable(report.metadata)}
    row = insert(Artifact).values(
        id=new_id("artifact"), job_id=held.job.id, attempt_id=held.attempt.id, kind=report.kind, **values
    )
    await session.execute(row.on_conflict_do_update(index_elements=[Artifact.attempt_id, Artifact.kind], set_=values))


async def readable_file(session: AsyncSession, held: Held, sha256: str) -> FileRef | None:
    """The file with this hash if the attempt's job may read it: its model, its data, its checkpoints, its results."""
    job = held.job
    sets = (
        select(Model.files).where(Model.name == job.spec["model"]),
        select(Model.files).where(
            Model.name == select(Model.base_model).where(Model.name == job.spec["model"]).scalar_subquery()
        ),
        select(Checkpoint.files).where(Checkpoint.job_id == job.id),
        select(Artifact.files).where(Artifact.job_id == job.id),
    )
    for query in sets:
        for files in (await session.execute(query)).scalars():
            for file in files:
                if file["sha256"] == sha256:
                    return FileRef.model_validate(file)
    return await _data_file(session, job, sha256)


def _has_step(point: dict[str, float | int | None]) -> bool:
    step = point.get("step")
    return step is not None and 0 <= step < 2**53


async def _data_file(session: AsyncSession, job: Job, sha256: str) -> FileRef | None:
    for file_id in (job.training_file, job.validation_file):
        if file_id is not None and (file := await file_ref(session, file_id)).sha256 == sha256:
            return file
    return None


async def _check_set(session: AsyncSession, files: tuple[FileRef, ...]) -> None:
    if not files:
        raise InvalidRequest("A set of files cannot be empty.", param="files")
    for file in files:
        check_file_name(file.name)
    await store.require(session, files)


async def _has_checkpoint(session: AsyncSession, attempt: Attempt, *, step: int) -> bool:
    query = select(Checkpoint.id).where(Checkpoint.attempt_id == attempt.id, Checkpoint.step == step)
    return (await session.execute(query)).scalar_one_or_none() is not None
