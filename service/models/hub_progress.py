"""The answer to whoever has a model fetched: lines of JSON, how far it is, and at the end the model or an error."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from fastapi.responses import Response, StreamingResponse

from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.tables import Model
from tunesmith.service.database.transactions import Database
from tunesmith.service.models.hub_fetch import Fetch, HubModels
from tunesmith.service.models.hub_repository import Listing, hub_of
from tunesmith.service.settings import Settings
from tunesmith.service.web.auth import Caller
from tunesmith.service.web.errors import error_response
from tunesmith.tuning.api.models import ModelFetch, ModelObject
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.values.base import Value

log = structlog.get_logger(__name__)

_EVERY_SECONDS = 1.0
_LINES = "application/x-ndjson"
FETCHED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Lines of JSON: a `model.fetch` with `fetched_bytes` and `total_bytes` each second, then the "
        "model, or an object with `error` where it could not be fetched whole. Nothing is registered before.",
        "content": {_LINES: {"schema": {"type": "object"}}},
    },
}


def told_at_once(model: ModelObject) -> Response:
    """The model was there already."""
    return Response(_line(model), media_type=_LINES)


def told_while_fetching(
    settings: Settings,
    database: Database,
    blobs: BlobStore,
    listing: Listing,
    *,
    caller: Caller,
    show: Callable[[Model], ModelObject],
) -> Response:
    """Fetch for as long as somebody reads; what has come by then is kept for a day and need not come again."""

    async def fetch(progress: Fetch) -> ModelObject:
        async with hub_of(settings) as hub:
            return show(await HubModels(settings, database, blobs, hub).fetch(listing, progress, caller=caller))

    progress = Fetch(total_bytes=sum(file.bytes for file in listing.files))
    return StreamingResponse(_lines(listing, progress, fetch), media_type=_LINES)


async def _lines(listing: Listing, progress: Fetch, fetch: Callable[[Fetch], Any]) -> AsyncIterator[bytes]:
    task = asyncio.create_task(fetch(progress))
    try:
        while not task.done():
            yield _line(_told(listing, progress))
            await asyncio.wait((task,), timeout=_EVERY_SECONDS)
        yield _ending(task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _ending(task: "asyncio.Task[ModelObject]") -> bytes:
    error = task.exception()
    if error is None:
        return _line(task.result())
    if not isinstance(error, TunesmithError):
        log.error("hub.fetch_failed", exc_info=error)
        error = TunesmithError("A fault of the service; its log has the details.")
    return bytes(error_response(error).body) + b"\n"


def _told(listing: Listing, progress: Fetch) -> ModelFetch:
    return ModelFetch(
        id=listing.hub.id,
        commit=listing.hub.commit,
        fetched_bytes=progress.fetched_bytes,
        total_bytes=progress.total_bytes,
    )


def _line(value: Value) -> bytes:
    return json.dumps(value.model_dump(mode="json"), separators=(",", ":")).encode() + b"\n"
