"""`/internal/workers`, `/internal/claims` and `/internal/attempts`: the worker's side, see `tuning.messages`."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from tunesmith.service.attempts import fencing, reports
from tunesmith.service.attempts.claim import claim
from tunesmith.service.attempts.claim_answer import LeaseTerms
from tunesmith.service.attempts.fencing import CheckedAttempt, CheckedLeaseHolder, LeaseHolder, LockedAttempt
from tunesmith.service.attempts.finish import finish
from tunesmith.service.attempts.outcomes import Policy
from tunesmith.service.attempts.readable_files import find_readable
from tunesmith.service.attempts.worker_start import register
from tunesmith.service.blobs import intake, store
from tunesmith.service.blobs.objects import check_name
from tunesmith.service.projects.limits import allowances
from tunesmith.service.web.auth import WorkerKey, bearer
from tunesmith.service.web.bodies import MOST_LISTED_ELEMENTS, json_body
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.streams import send_blob
from tunesmith.tuning.messages import (
    ArtifactReport,
    AttemptHeartbeat,
    CanaryReport,
    CheckpointReport,
    Claim,
    ClaimRequest,
    EventReport,
    FinishReport,
    HeartbeatReply,
    MetricChunk,
    PhaseReport,
    RegisterWorker,
    WorkerRegistered,
)

router = APIRouter(prefix="/internal", include_in_schema=False)


def _body(model: type[Any]) -> Any:
    return json_body(model, strict=False, most_elements=MOST_LISTED_ELEMENTS)


@router.post("/workers")
async def register_worker(
    caller: WorkerKey,
    request: Annotated[RegisterWorker, json_body(RegisterWorker, strict=False)],
    session: DbSession,
    settings: SettingsDep,
) -> WorkerRegistered:
    """A worker process has started."""
    worker = await register(session, request, lineage=caller.lineage, policy=Policy.of(settings))
    return WorkerRegistered(
        worker_class=worker.worker_class,
        heartbeat_interval_seconds=settings.heartbeat_seconds,
        lease_seconds=settings.lease_seconds,
    )


@router.post("/claims", response_model=None)
async def claim_job(
    caller: WorkerKey, request: Annotated[ClaimRequest, _body(ClaimRequest)], session: DbSession, settings: SettingsDep
) -> Claim | Response:
    """Take the best waiting job for this hardware; 204 when there is none."""
    terms = LeaseTerms(settings.lease_seconds, settings.heartbeat_seconds, settings.worker_silence)
    allowed = await allowances(session, settings)
    claimed = await claim(session, request, lineage=caller.lineage, terms=terms, allowed=allowed)
    return claimed or Response(status_code=204)


@router.post("/attempts/{attempt_id}/heartbeat")
async def attempt_heartbeat(
    _known: LeaseHolder,
    beat: Annotated[AttemptHeartbeat, _body(AttemptHeartbeat)],
    held: LockedAttempt,
    session: DbSession,
    settings: SettingsDep,
) -> HeartbeatReply:
    """Extend the lease."""
    return await reports.heartbeat(session, held, beat, lease_seconds=settings.lease_seconds)


@router.post("/attempts/{attempt_id}/phase", status_code=204)
async def attempt_phase(
    _known: LeaseHolder, report: Annotated[PhaseReport, _body(PhaseReport)], held: LockedAttempt
) -> Response:
    """A phase was reached."""
    reports.phase(held, report)
    return Response(status_code=204)


@router.post("/attempts/{attempt_id}/events", status_code=204)
async def attempt_event(
    _known: LeaseHolder, report: Annotated[EventReport, _body(EventReport)], held: LockedAttempt, session: DbSession
) -> Response:
    """A line for the job's history."""
    reports.event(session, held, report)
    return Response(status_code=204)


@router.post("/attempts/{attempt_id}/canary", status_code=204)
async def attempt_canary(
    _known: LeaseHolder, report: Annotated[CanaryReport, _body(CanaryReport)], held: LockedAttempt
) -> Response:
    """What one micro-step before training measured."""
    reports.canary(held, report)
    return Response(status_code=204)


@router.post("/attempts/{attempt_id}/metrics", status_code=204)
async def attempt_metrics(
    _known: LeaseHolder, chunk: Annotated[MetricChunk, _body(MetricChunk)], held: LockedAttempt, session: DbSession
) -> Response:
    """Metric points."""
    await reports.metric_chunk(session, held, chunk)
    return Response(status_code=204)


@router.put("/attempts/{attempt_id}/blobs/{sha256}", status_code=204)
async def put_attempt_blob(
    request: Request,
    *,
    attempt_id: str,
    sha256: str,
    _held: CheckedAttempt,
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
) -> Response:
    """Bytes, verified against their name. The lease is checked before and after, and no lock is held in between."""
    length_bytes = await intake.write_stream(
        database, blobs, sha256, request.stream(), limit_bytes=settings.max_blob_bytes
    )
    async with database.transaction() as session:
        await fencing.hold_by_token(session, attempt_id, bearer(request))
        await store.record(session, sha256=sha256, length_bytes=length_bytes)
    return Response(status_code=204)


@router.get("/attempts/{attempt_id}/blobs/{sha256}")
async def get_attempt_blob(
    request: Request, sha256: str, held: LockedAttempt, session: DbSession, blobs: BlobsDep
) -> Response:
    """Bytes that this attempt's job may read. Range works."""
    file = await find_readable(session, held.job, check_name(sha256))
    return await send_blob(blobs, sha256, length_bytes=file.bytes, range_header=request.headers.get("range"))


@router.post("/attempts/{attempt_id}/checkpoints", status_code=204)
async def attempt_checkpoint(
    _known: LeaseHolder,
    report: Annotated[CheckpointReport, _body(CheckpointReport)],
    held: LockedAttempt,
    session: DbSession,
) -> Response:
    """A checkpoint whose files are all in the store."""
    await reports.checkpoint(session, held, report)
    return Response(status_code=204)


@router.post("/attempts/{attempt_id}/artifacts", status_code=204)
async def attempt_artifact(
    _known: LeaseHolder,
    report: Annotated[ArtifactReport, _body(ArtifactReport)],
    held: LockedAttempt,
    session: DbSession,
) -> Response:
    """A result whose files are all in the store."""
    await reports.artifact(session, held, report)
    return Response(status_code=204)


@router.post("/attempts/{attempt_id}/finish", status_code=204)
async def finish_attempt(
    request: Request,
    *,
    _known: CheckedLeaseHolder,
    report: Annotated[FinishReport, _body(FinishReport)],
    attempt_id: str,
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
) -> Response:
    """The attempt's last word; saying the same again is harmless."""
    token, policy = bearer(request), Policy.of(settings)
    await finish(database, blobs, report, attempt_id=attempt_id, token=token, policy=policy)
    return Response(status_code=204)
