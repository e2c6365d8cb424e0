"""A file as the API shows it."""

from tunesmith.service.database.tables import File
from tunesmith.service.files import store
from tunesmith.tuning.api.files import FileObject, TunesmithFile
from tunesmith.tuning.values.json_objects import Json


def file_object(file: File) -> FileObject:
    """The API's FileObject, with the check's report under `tunesmith`."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose,
        status=file.status,
        status_details=file.status_details,
        expires_at=int(file.expires_at.timestamp()) if file.expires_at else None,
        tunesmith=TunesmithFile(
            sha256=store.bytes_of(file, name=file.filename).sha256, report=_shown(file), metadata=file.labels
        ),
    )


def _shown(file: File) -> Json | None:
    """The report without the hashes that only comparing needs."""
    return None if file.report is None else {name: value for name, value in file.report.items() if name != "sample"}
