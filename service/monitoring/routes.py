"""`GET /metrics` for Prometheus."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.concurrency import run_in_threadpool

from tunesmith.service.leases.lease_time import LeasePolicy
from tunesmith.service.monitoring.exposition import exposition
from tunesmith.service.monitoring.store import observe
from tunesmith.service.web.auth import AdminKey
from tunesmith.service.web.dependencies import DbSession, SettingsDep

router = APIRouter(tags=["monitoring"])


@router.get("/metrics", response_class=PlainTextResponse)
async def prometheus_metrics(_caller: AdminKey, session: DbSession, settings: SettingsDep) -> Response:
    """Jobs, workers, waiting and prediction errors over all projects; an admin's key is the bearer token."""
    terms = LeasePolicy.of_seconds(lease=settings.lease_seconds, heartbeat=settings.heartbeat_seconds)
    seen = await observe(session, silence=settings.worker_silence, terms=terms)
    return Response(await run_in_threadpool(exposition, seen), media_type=CONTENT_TYPE_PLAIN_0_0_4)
