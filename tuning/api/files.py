"""Uploaded files and those that jobs leave."""

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
