"""Folders a server needs: private ones, short enough for socket paths, remembered in the data directory."""

import errno
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tunesmith.local.embedded.errors import DirectoryUnusable, DiskFull

SOCKET_PATH_LIMIT_BYTES = 107  # sizeof(sockaddr_un.sun_path) is 108 on Linux, and the last byte is the terminator
_LONGEST_SOCKET_NAME = ".s.PGSQL.5432.lock"
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")  # needs no quoting in a URL, a libpq string or a server option


def private_folder(path: Path) -> Path:
    """Make `path` (and its parents) and close it to everybody else.

    Raises DirectoryUnusable or DiskFull.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise _explained(path, error) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise _explained(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return path


def socket_folder(data_dir: Path, *, name: str, owner_id: int | None, environment: Mapping[str, str]) -> Path:
    """A 0700 folder for sockets: `data_dir/name`, or a short one elsewhere when that path is too long or needs quoting.

    `owner_id` is the user the server runs as when that is not us (then the folder lies outside `data_dir`, which
    that user may not be able to enter). The folder elsewhere is remembered in `data_dir/name.path`.
    """
    here = data_dir / name
    longest = here / _LONGEST_SOCKET_NAME
    if owner_id is None and len(os.fsencode(longest)) <= SOCKET_PATH_LIMIT_BYTES and _PLAIN.fullmatch(str(here)):
        return private_folder(here)
    return remembered_folder(
        data_dir / f"{name}.path", parents=_runtime_folders(environment, owner_id), owner_id=owner_id
    )


def remembered_folder(record: Path, *, parents: list[Path], owner_id: int | None) -> Path:
    """The private folder named in `record` when it is still there and ours, else a new one, which is then recorded."""
    if (known := recorded(record)) and _is_private(known, owner_id=owner_id):
        return known
    for parent in parents:
        try:
            folder = Path(tempfile.mkdtemp(prefix="tunesmith-", dir=parent))
        except OSError:
            continue
        if owner_id is not None:
            os.chown(folder, owner_id, owner_id)
        record.write_text(f"{folder}\n", encoding="utf-8")
        return folder
    raise DirectoryUnusable(
        f"No short private folder could be made in {', '.join(map(str, parents))}.",
        hint="choose a --data-dir with a shorter path, or set XDG_RUNTIME_DIR to a writable folder",
    )


def recorded(record: Path) -> Path | None:
    """The folder that `record` names, None when there is no record."""
    try:
        text = record.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return Path(text) if text else None


def _runtime_folders(environment: Mapping[str, str], owner_id: int | None) -> list[Path]:
    runtime = environment.get("XDG_RUNTIME_DIR")
    own = [Path(runtime)] if runtime and owner_id is None else []
    short = [folder for folder in (*own, Path(tempfile.gettempdir()), Path("/tmp")) if len(os.fsencode(folder)) < 60]  # noqa: S108 - mkdtemp inside
    return [folder for folder in short if _PLAIN.fullmatch(str(folder))]


def _is_private(folder: Path, *, owner_id: int | None) -> bool:
    try:
        facts = folder.lstat()
    except OSError:
        return False
    owner = os.geteuid() if owner_id is None else owner_id
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == owner and not facts.st_mode & 0o077


def _explained(path: Path, error: OSError) -> DirectoryUnusable | DiskFull:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"The disk that holds {path} is full.", hint="free some space, or choose another --data-dir")
    return DirectoryUnusable(
        f"The folder {path} cannot be used: {error.strerror}.",
        hint="choose a --data-dir that you may write to, or set TUNESMITH_DATA_DIR",
    )
