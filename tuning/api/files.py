"""Uploaded files, uploads in parts, and files that jobs leave."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Named, Page
from tunesmith.tuning.datasets.rows import RowReport
from tunesmith.tuning.values.json_objects import Json


class TunesmithFile(Answer):
    """What Tunesmith adds to a file."""

    sha256: str
    """SHA-256 of its bytes in hexadecimal."""
    report: Annotated[Json, Recorded(RowReport)] | None
    """What the check of its rows counted; null where rows were not checked, as for purposes other than `fine-tune`."""
    metadata: dict[str, str] | None = None
    """The labels that it was uploaded with; null where there are none."""


class FileObject(Named):
    """A file of a project."""

    id: str
    """Its identifier, `file-...`."""
    object: Literal["file"] = "file"
    """Always `file`."""
    bytes: int
    """Its length."""
    created_at: int
    """When it was uploaded, in Unix seconds."""
    filename: str
    """The name that it was uploaded under."""
    purpose: str
    """What it is for: `fine-tune`, or `fine-tune-results` for what a job left."""
    status: Literal["uploaded", "processed", "error"]
    """`processed` when it can be used, `error` when it holds rows that cannot be trained on."""
    status_details: str | None
    """The lines that cannot be trained on and why; null where there are none."""
    expires_at: int | None
    """When it is deleted, in Unix seconds; null for never."""
    tunesmith: TunesmithFile
    """Everything that is ours."""


class FilePage(Page[FileObject]):
    """One page of a project's files."""


class UploadObject(Answer):
    """A file that is sent in parts."""

    id: str
    """Its identifier, `upload-...`."""
    object: Literal["upload"] = "upload"
    """Always `upload`."""
    bytes: int
    """The length that the whole file is to have."""
    created_at: int
    """When it was opened, in Unix seconds."""
    expires_at: int
    """When it can be completed no longer, in Unix seconds."""
    filename: str
    """The name that the file will have."""
    purpose: str
    """What the file is for."""
    status: Literal["pending", "completed", "cancelled", "expired"]
    """`pending` while parts are taken."""
    file: FileObject | None
    """The file that it became; null before it is completed."""


class UploadPartObject(Answer):
    """A part of a file that the store has."""

    id: str
    """Its identifier, to be named when the upload is completed."""
    object: Literal["upload.part"] = "upload.part"
    """Always `upload.part`."""
    created_at: int
    """When it had come, in Unix seconds."""
    upload_id: str
    """The upload that it belongs to."""
