"""What lies in a backup, and whether it is still what was put there.

database.dump    pg_dump's custom format
keys/            the admin's and the worker's key
blobs/           the object store; every file is named by its sha256
manifest.json    written last: without it the backup is not complete
"""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from tunesmith.local.embedded.errors import DirectoryUnusable, DiskFull
from tunesmith.tuning.values.base import Value

DATABASE, KEYS, BLOBS, MANIFEST = "database.dump", "keys", "blobs", "manifest.json"
_KEY = re.compile(rf"{KEYS}/[a-z]+\.key")


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

    @property
    def stored_bytes(self) -> dict[str, int]:
        """The length of each file of the object store, by its hash."""
        return {file.sha256: file.bytes for name, file in self.files.items() if name.startswith(f"{BLOBS}/")}

    @property
    def keys(self) -> list[str]:
        """The names of the keys."""
        return [name for name in self.files if name.startswith(f"{KEYS}/")]


def require_empty(folder: Path, *, option: str) -> None:
    """Refuse a folder that has anything in it.

    Raises:
        DirectoryUnusable: naming the option that names another one.
    """
    if (folder / DATABASE).exists() and not (folder / MANIFEST).exists():
        raise DirectoryUnusable(
            f"{folder} holds a backup that was broken off.", hint="delete it, and use that name again"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DirectoryUnusable(f"{folder} is not empty.", hint=f"choose an empty or a new folder as {option}")


def blob_name(sha256: str) -> str:
    """Where stored bytes lie in a backup, and in an object store on a disk."""
    return f"{BLOBS}/{sha256[:2]}/{sha256}"


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes where both lie on one file system, which nobody ever changes; else a copy.

    Raises:
        FileNotFoundError: there is no such source.
        DiskFull: the copy has no room.
    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        _copy(source, target)


def finish(folder: Path, *, version: str) -> Manifest:
    """Hash every file of a backup, and write the manifest when all else is on the disk: it is there whole or not.

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
    manifest = Manifest(version=version, files=files)
    unfinished = folder / f"{MANIFEST}.unfinished"
    unfinished.write_text(manifest.model_dump_json(indent=2))
    os.sync()
    unfinished.rename(folder / MANIFEST)
    return manifest


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
    if DATABASE not in manifest.files:
        raise _damaged(f"its manifest names no {DATABASE}")
    for name, file in manifest.files.items():
        if name != DATABASE and name != blob_name(file.sha256) and not _KEY.fullmatch(name):
            raise _damaged(f"its manifest names {name}, which belongs in no backup")
        path = folder / name
        if not path.is_file():
            raise _damaged(f"{name} is missing")
        if _described(path) != file:
            raise _damaged(f"{name} has other bytes than were written")
    return manifest


def _damaged(how: str) -> DirectoryUnusable:
    return DirectoryUnusable(f"The backup is damaged: {how}.", hint="nothing was changed; use another backup")


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"The disk that holds {target} is full.", hint="free some space there, and begin again"
        ) from error


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _described(path: Path) -> BackupFile:
    with path.open("rb") as file:
        return BackupFile(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)
