"""`GET /v1/client`: the command of exactly the version that answers, for pipelines that have no copy of it."""

import asyncio

from fastapi import APIRouter, Response

from tunesmith.service.joining.package import own_wheel
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.etags import NOT_MODIFIED, IfNoneMatch, is_known

router = APIRouter(prefix="/v1/client", tags=["client"])


@router.get(
    "",
    response_class=Response,
    responses=NOT_MODIFIED | {200: {"content": {"application/octet-stream": {}}, "description": "The wheel."}},
)
async def download_client(_caller: MemberKey, if_none_match: IfNoneMatch = None) -> Response:
    """The package that this service runs, as a wheel that pip installs; `content-disposition` has its file name."""
    wheel = await asyncio.to_thread(own_wheel)
    etag = f'"{wheel.sha256}"'
    if is_known(etag, if_none_match):
        return Response(status_code=304, headers={"etag": etag})
    headers = {"etag": etag, "content-disposition": f'attachment; filename="{wheel.filename}"'}
    return Response(wheel.content, media_type="application/octet-stream", headers=headers)
