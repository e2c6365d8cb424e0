"""A file as the API shows it."""

from typing import Any

from tunesmith.service.database.tables import File


def file_object(file: File) -> dict[str, Any]:
    """The API's FileObject, with the check's report under `tunesmith`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.status_details,
        "expires_at": int(file.expires_at.timestamp()) if file.expires_at else None,
        "tunesmith": {"sha256": file.blob_sha256, "report": file.report},
    }
