"""What lies in a backup, and whether it is still what was put there.

database.dump    pg_dump's custom format
keys/            the admin's and the worker's key
blobs/           the object store; every file is named by its sha256
manifest.json    written last: without it the backup is not complete
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from tunesmith.local.embedded.errors import DirectoryUnusable
from tunesmith.tuning.values.base import Value

DATABASE, KEYS, BLOBS, MANIFEST = "database.dump", "keys", "blobs", "manifest.json"
_SHA256_LENGTH = 64


class BackupFile(Value):
    """One file of a backup."""

    sha256: str
    bytes: int


class Manifest(Value):
    """Every file of a backup by its path in it, and the version that made it."""

    version: str
    files: dict[str, BackupFile]

    @property
    def total_bytes(self) -> int:
        """Of all files, those that are links to the installation's own among them."""
        return sum(file.bytes for file in self.files.values())


def require_empty(folder: Path, *, option: str) -> None:
    """Refuse a folder that has anything in it.

    Raises:
        DirectoryUnusable: naming the option that names another one.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DirectoryUnusable(f"{folder} is not empty.", hint=f"choose an empty or a new folder as {option}")


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes where both lie on one file system, which nobody ever changes; else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def describe(folder: Path, *, version: str) -> Manifest:
    """Hash every file of a backup that has no manifest yet.

    Raises:
        DirectoryUnusable: bytes of the object store are not what their name says.
    """
    files = {str(path.relative_to(folder)): _described(path) for path in sorted(_files(folder))}
    wrong = [name for name, file in files.items() if name.startswith(BLOBS) and Path(name).name != file.sha256]
    if wrong:
        raise DirectoryUnusable(
            f"{wrong[0]} is damaged: its bytes have sha256 {files[wrong[0]].sha256}.",
            hint="the installation's disk may be failing; an older backup may still have the file",
        )
    return Manifest(version=version, files=files)


def verify(folder: Path) -> Manifest:
    """Hash every file again.

    Raises:
        DirectoryUnusable: it is no backup, is not complete, or a file is missing or was changed.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise DirectoryUnusable(
            f"{folder} is no complete backup: {MANIFEST} is missing or damaged.",
            hint="name a folder that `tunesmith backup` has finished",
        ) from error
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file() or _described(path) != file:
            raise DirectoryUnusable(
                f"The backup is damaged: {name} is missing or has other bytes than were written.",
                hint="use another backup",
            )
    return manifest


def is_blob(path: Path) -> bool:
    """Whether a file of the object store is complete: one that is being written has more in its name."""
    return path.is_file() and len(path.name) == _SHA256_LENGTH


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _described(path: Path) -> BackupFile:
    with path.open("rb") as file:
        return BackupFile(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)
