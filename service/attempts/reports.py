"""What a worker says while it works. Each function gets a job and an attempt that are locked and fenced."""

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service import events
from tunesmith.service.artifacts import store as artifacts
from tunesmith.service.attempts.fencing import Held
from tunesmith.service.blobs import store as blob_rows
from tunesmith.service.checkpoints import store as checkpoints
from tunesmith.service.database.jsonb_safe import storable
from tunesmith.service.database.tables import Job
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
from tunesmith.tuning.words import JobKind

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
    clean = storable(list(chunk.points))
    if not all(_has_step(point) for point in clean):
        raise InvalidRequest("Every point needs a step.", param="points")
    fresh = await metrics.add_chunk(session, held.attempt, chunk, clean)
    if held.job.kind == JobKind.TRAINING:
        _tell(session, held.job, fresh)


async def checkpoint(session: AsyncSession, held: Held, report: CheckpointReport) -> None:
    """Register a checkpoint. The same step of a later attempt takes the place of the earlier one.

    Raises:
        InvalidRequest: a file is not in the store, or none of them is the manifest.
    """
    await _check_set(session, report.files)
    if report.manifest_sha256 not in {file.sha256 for file in report.files}:
        raise InvalidRequest("The manifest is not one of the files.", param="manifest_sha256")
    is_new = not await checkpoints.is_recorded(session, held.attempt, step=report.step)
    await checkpoints.record(session, held.attempt, report)
    if is_new:
        events.append(session, held.job, f"Checkpoint created at step {report.step}", data={"step": report.step})


async def artifact(session: AsyncSession, held: Held, report: ArtifactReport) -> None:
    """Register a result. Sending the same kind again replaces it.

    Raises:
        InvalidRequest: a file is not in the store.
    """
    await _check_set(session, report.files)
    await artifacts.record(session, held.attempt, report)


def _tell(session: AsyncSession, job: Job, fresh: list[points.Point]) -> None:
    total_steps, told_step = job.total_steps, job.metric_event_step
    for point in fresh:
        if points.worth_an_event(point, total_steps=total_steps, after_step=told_step):
            message = points.event_message(point, total_steps=total_steps)
            events.append(session, job, message, kind="metrics", data={"total_steps": total_steps, **point})
            told_step = max(told_step, int(point["step"]))
    job.metric_event_step = told_step


def _has_step(point: dict[str, float | int | None]) -> bool:
    step = point.get("step")
    return step is not None and 0 <= step < 2**53


async def _check_set(session: AsyncSession, files: tuple[FileRef, ...]) -> None:
    if not files:
        raise InvalidRequest("A set of files cannot be empty.", param="files")
    for file in files:
        check_file_name(file.name)
    await blob_rows.require(session, files)
