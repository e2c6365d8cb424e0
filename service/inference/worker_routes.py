"""`/internal/inference-workers`: the worker's side, see `tuning.inference_messages`."""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from tunesmith.service.blobs.objects import check_name
from tunesmith.service.inference import registry, store
from tunesmith.service.web.auth import WorkerKey
from tunesmith.service.web.bodies import json_body
from tunesmith.service.web.dependencies import BlobsDep, DbSession, SettingsDep
from tunesmith.service.web.streams import send_blob
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.inference_messages import (
    InferenceHeartbeat,
    InferenceWorkerRegistered,
    RegisterInferenceWorker,
)

router = APIRouter(prefix="/internal/inference-workers", include_in_schema=False)


@router.post("")
async def register_inference_worker(
    caller: WorkerKey,
    request: Annotated[RegisterInferenceWorker, json_body(RegisterInferenceWorker, strict=False)],
    session: DbSession,
    settings: SettingsDep,
) -> InferenceWorkerRegistered:
    """An inference worker has started."""
    await registry.record_start(session, request, lineage=caller.lineage)
    return InferenceWorkerRegistered(heartbeat_interval_seconds=settings.heartbeat_seconds)


@router.post("/{worker_id}/heartbeat", status_code=204)
async def inference_heartbeat(
    worker_id: str,
    caller: WorkerKey,
    report: Annotated[InferenceHeartbeat, json_body(InferenceHeartbeat, strict=False)],
    session: DbSession,
) -> Response:
    """It lives."""
    await registry.beat(session, worker_id, report, lineage=caller.lineage)
    return Response(status_code=204)


@router.get("/{worker_id}/blobs/{sha256}")
async def get_model_blob(
    request: Request, *, worker_id: str, sha256: str, caller: WorkerKey, session: DbSession, blobs: BlobsDep
) -> Response:
    """Bytes of a model. Nobody's training data, nor anything else that is no model's. Range works."""
    await registry.require(session, worker_id, lineage=caller.lineage)
    length_bytes = await store.find_length_of_model_file(session, check_name(sha256))
    if length_bytes is None:
        raise NotFound(f"No model has a file {sha256}.", code=ErrorCode.BLOB_NOT_FOUND, param="sha256")
    return await send_blob(blobs, sha256, length_bytes=length_bytes, range_header=request.headers.get("range"))
