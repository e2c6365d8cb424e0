"""The calls about files of rows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO
from urllib.parse import quote

from tunesmith.cli.client.transport import UPLOAD_TIMEOUT, Transport
from tunesmith.tuning.api.files import FileObject, FilePage
from tunesmith.tuning.api.lists import Deleted
from tunesmith.tuning.values.json_objects import present


class FileCalls(Transport):
    """Send files of rows, look at them, forget them."""

    def upload_file(
        self,
        path: Path,
        *,
        purpose: str = "fine-tune",
        labels: Mapping[str, str] | None = None,
        wrap: Callable[[IO[bytes]], IO[bytes]] = lambda file: file,
    ) -> FileObject:
        """Send a file and return it as the service sees it. `wrap` may watch the bytes go by."""
        with path.open("rb") as file:
            return self.ask(
                FileObject,
                "POST",
                "/files",
                data={"purpose": purpose, **{f"metadata[{key}]": value for key, value in (labels or {}).items()}},
                files={"file": (path.name, wrap(file), "application/octet-stream")},
                timeout=UPLOAD_TIMEOUT,
            )

    def list_files(self, *, purpose: str | None = None, limit: int = 1000) -> list[FileObject]:
        """Newest first."""
        return self.ask(FilePage, "GET", "/files", params=present(purpose=purpose, limit=limit)).data

    def file(self, file_id: str) -> FileObject:
        """One file with what the check of its rows found."""
        return self.ask(FileObject, "GET", f"/files/{quote(file_id, safe='')}")

    def delete_file(self, file_id: str) -> Deleted:
        """Hide a file; jobs that were made from it keep its bytes."""
        return self.ask(Deleted, "DELETE", f"/files/{quote(file_id, safe='')}")
