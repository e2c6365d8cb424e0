"""`/v1/files`: upload, list, look at, download, delete."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import FormData, UploadFile

from tunesmith.service.files import intake, store
from tunesmith.service.files.views import file_object
from tunesmith.service.projects.limits import check_stored
from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.dependencies import BlobsDep, DatabaseDep, DbSession, SettingsDep
from tunesmith.service.web.parameters import AT_MOST, After, FileId, Order, Range
from tunesmith.service.web.streams import DOWNLOAD, send_blob
from tunesmith.tuning.api.files import FileObject, FilePage
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest

router = APIRouter(prefix="/v1/files", tags=["files"])

_FORM_FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")
_LABEL = re.compile(r"metadata\[([^\[\]]{1,64})\]")
_MOST_LABELS, _LONGEST_LABEL = 16, 512
_UPLOAD_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "The bytes, as a form part with a file name."},
        "purpose": {
            "type": "string",
            "enum": list(intake.PURPOSES),
            "description": "What it is for; rows are checked for `fine-tune`.",
        },
        "expires_after[anchor]": {"const": "created_at", "description": "What the time to keep the file counts from."},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": 3600,
            "maximum": 2_592_000,
            "description": "How long to keep the file; for ever without it.",
        },
        "metadata[KEY]": {
            "type": "string",
            "maxLength": _LONGEST_LABEL,
            "description": "A label, by which schedules find the newest file; up to 16 of them.",
        },
    },
}


@router.post(
    "",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD_FORM}}}},
)
async def create_file(
    request: Request, caller: MemberKey, *, database: DatabaseDep, blobs: BlobsDep, settings: SettingsDep
) -> FileObject:
    """Upload a file. Training files are checked line by line; a bad one is kept with status `error` and the reasons."""
    async with request.form(max_files=1, max_fields=30) as form:
        upload, purpose, expires_after_seconds = _read_form(form)
        labels = _labels(form)
        received = await intake.receive(database, blobs, upload.file, purpose=purpose)
    async with database.transaction() as session:  # opened only now: no transaction waits for an upload
        file = await intake.record(
            session,
            received,
            project=caller.project,
            purpose=purpose,
            filename=upload.filename or "upload",
            expires_after_seconds=expires_after_seconds,
            labels=labels,
        )
        await check_stored(session, caller.project, limits=settings.limits_of(caller.project))
    return file_object(file)


@router.get("")
async def list_files(
    caller: MemberKey,
    *,
    session: DbSession,
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    after: After = None,
    order: Order = "desc",
    limit: Annotated[int, Query(ge=1, le=10_000, description=AT_MOST)] = 10_000,
) -> FilePage:
    """The project's files, newest first."""
    files = await store.find_many(
        session, project=caller.project, purpose=purpose, order=order, after=after, limit=limit + 1
    )
    return FilePage.of([file_object(file) for file in files], limit=limit)


@router.get("/{file_id}")
async def retrieve_file(file_id: FileId, caller: MemberKey, session: DbSession) -> FileObject:
    """One file with the report of its check."""
    return file_object(await store.find(session, file_id, project=caller.project))


@router.delete("/{file_id}")
async def delete_file(file_id: FileId, caller: MemberKey, session: DbSession) -> Deleted:
    """Hide the file. Jobs that were already created from it keep their bytes."""
    file = await store.hide(session, file_id, project=caller.project)
    return Deleted(id=file.id, object="file")


@router.get("/{file_id}/content", response_class=Response, responses=DOWNLOAD)
async def file_content(
    file_id: FileId, caller: MemberKey, *, session: DbSession, blobs: BlobsDep, byte_range: Range = None
) -> Response:
    """The bytes as they were uploaded. Range works."""
    file = await store.find(session, file_id, project=caller.project)
    stored = store.bytes_of(file, name=file.filename)
    return await send_blob(
        blobs,
        stored.sha256,
        length_bytes=stored.bytes,
        range_header=byte_range,
        filename=file.filename,
    )


def _read_form(form: FormData) -> tuple[UploadFile, str, int | None]:
    for name in form:
        if name not in _FORM_FIELDS and not _LABEL.fullmatch(name):
            raise InvalidRequest(f"Unknown parameter: '{name}'.", code=ErrorCode.UNKNOWN_PARAMETER, param=name)
    upload, purpose = form.get("file"), form.get("purpose")
    if not isinstance(upload, UploadFile):
        message = "Missing required parameter: 'file', as a form part with a file name."
        raise InvalidRequest(message, code=ErrorCode.MISSING_REQUIRED_PARAMETER, param="file")
    if purpose is None:
        raise InvalidRequest(
            "Missing required parameter: 'purpose'.", code=ErrorCode.MISSING_REQUIRED_PARAMETER, param="purpose"
        )
    if not isinstance(purpose, str) or purpose not in intake.PURPOSES:
        message = f"'purpose' must be one of {', '.join(intake.PURPOSES)}."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="purpose")
    return upload, purpose, _expiry_seconds(form)


def _labels(form: FormData) -> dict[str, str] | None:
    labels = {match[1]: value for name, value in form.items() if (match := _LABEL.fullmatch(name))}
    for key, value in labels.items():
        if not isinstance(value, str) or len(value) > _LONGEST_LABEL:
            message = f"'metadata[{key}]' must be a text of at most {_LONGEST_LABEL} characters."
            raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param=f"metadata.{key}")
    if len(labels) > _MOST_LABELS:
        message = f"A file may have {_MOST_LABELS} labels, not {len(labels)}."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="metadata")
    return {key: str(value) for key, value in labels.items()} or None


def _expiry_seconds(form: FormData) -> int | None:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        message = "'expires_after[anchor]' must be 'created_at'."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="expires_after.anchor")
    if not isinstance(seconds, str) or not seconds.isdecimal() or not 3600 <= int(seconds) <= 2_592_000:
        message = "'expires_after[seconds]' must be a whole number from 3600 to 2592000."
        raise InvalidRequest(message, code=ErrorCode.INVALID_VALUE, param="expires_after.seconds")
    return int(seconds)
