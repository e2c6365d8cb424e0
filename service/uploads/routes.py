"""`/v1/uploads`: large files in parts."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.datastructures import UploadFile

from tunesmith.service.database.tables import File, Upload
from tunesmith.service.database.transactions import now
from tunesmith.service.files.views import file_object
from tunesmith.service.uploads import lifecycle
from tunesmith.service.uploads.schemas import CompleteUpload, CreateUpload
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import MOST_LISTED_ELEMENTS, documented, json_body
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.tuning.api.files import UploadObject, UploadPartObject
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

router = APIRouter(prefix="/v1/uploads", tags=["files"])

UploadId = Annotated[str, Path(description="The upload's id, `upload-...`.")]
_PART_FORM = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "format": "binary", "description": "The bytes, at most 64 MiB."}},
}


@router.post("", openapi_extra=documented(CreateUpload))
async def create_upload(
    caller: MemberKey,
    request: Annotated[CreateUpload, json_body(CreateUpload)],
    session: DbSession,
    settings: SettingsDep,
) -> UploadObject:
    """Open an upload for a large file; it is open for an hour."""
    upload = await lifecycle.create(
        session,
        request,
        project=caller.project,
        most_bytes=settings.max_upload_bytes,
        limits=settings.limits_of(caller.project),
    )
    return _upload_object(upload, status=upload.status)


@router.post(
    "/{upload_id}/parts",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _PART_FORM}}}},
)
async def add_upload_part(
    upload_id: UploadId,
    request: Request,
    *,
    caller: MemberKey,
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
) -> UploadPartObject:
    """Send one part of at most 64 MiB. Parts may be sent at once and in any order."""
    async with request.form(max_files=1, max_fields=1) as form:
        data = form.get("data")
        if not isinstance(data, UploadFile):
            message = "Missing required parameter: 'data', as a form part with a file name."
            raise InvalidRequest(message, code=ErrorCode.MISSING_REQUIRED_PARAMETER, param="data")
        part = await lifecycle.add_part(
            database,
            blobs,
            data.file,
            upload_id=upload_id,
            project=caller.project,
            limits=settings.limits_of(caller.project),
        )
    return UploadPartObject(id=part.id, created_at=int(part.created_at.timestamp()), upload_id=part.upload_id)


@router.post("/{upload_id}/complete", openapi_extra=documented(CompleteUpload))
async def complete_upload(
    upload_id: UploadId,
    *,
    caller: MemberKey,
    request: Annotated[CompleteUpload, json_body(CompleteUpload, most_elements=MOST_LISTED_ELEMENTS)],
    database: DatabaseDep,
    blobs: BlobsDep,
    settings: SettingsDep,
) -> UploadObject:
    """Make a file of the parts, in the order that is named here."""
    upload, file = await lifecycle.complete(
        database,
        blobs,
        request,
        upload_id=upload_id,
        project=caller.project,
        limits=settings.limits_of(caller.project),
    )
    return _upload_object(upload, status=upload.status, file=file)


@router.post("/{upload_id}/cancel")
async def cancel_upload(upload_id: UploadId, caller: MemberKey, session: DbSession) -> UploadObject:
    """End an upload without a file."""
    upload = await lifecycle.cancel(session, upload_id, project=caller.project)
    return _upload_object(upload, status=lifecycle.status_of(upload, at=await now(session)))


def _upload_object(upload: Upload, *, status: str, file: File | None = None) -> UploadObject:
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=int(upload.created_at.timestamp()),
        expires_at=int(upload.expires_at.timestamp()),
        filename=upload.filename,
        purpose=upload.purpose,
        status=status,
        file=file_object(file) if file else None,
    )
