"""Bodies of the upload routes."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tunesmith.tuning.values.base import Value


class ExpiresAfter(Value):
    """How long the file is kept."""

    anchor: Literal["created_at"]
    """What the time counts from."""
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]
    """How long to keep the file."""


class CreateUpload(Value):
    """`POST /v1/uploads`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"filename": "rows.jsonl", "bytes": 300000000, "purpose": "fine-tune", "mime_type": "text/jsonl"}
            ]
        }
    )

    filename: Annotated[str, Field(min_length=1, max_length=1024)]
    """The name of the file."""
    bytes: Annotated[int, Field(ge=1)]
    """The length of the whole file; its parts must come to it exactly."""
    purpose: Annotated[str, Field(max_length=64)]
    """What it is for; rows are checked for `fine-tune`."""
    mime_type: Annotated[str, Field(max_length=256)]
    """Recorded, and otherwise without effect."""
    expires_after: ExpiresAfter | None = None
    """How long to keep the file; for ever without it."""


class CompleteUpload(Value):
    """`POST /v1/uploads/{id}/complete`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"part_ids": ["part-1", "part-2"]}]})

    part_ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=10_000)]
    """All parts in the order of the file, whatever the order they came in."""
    md5: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{32}$")] | None = None
    """MD5 of the whole file in hexadecimal, to be compared."""
