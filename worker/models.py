"""Base models on this host: fetched once by hash, verified, and shared by every job that starts from them."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuning.messages import FileRef
from worker.control import AttemptControl
from worker.workdir import inside


class ModelCache:
    """Folders named by their content. A folder appears whole, because it is filled aside and renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def missing_bytes(self, files: tuple[FileRef, ...]) -> int:
        """How much would have to be fetched."""
        return 0 if self._is_whole(files) else sum(file.bytes for file in files)

    def fetch(self, files: tuple[FileRef, ...], control: AttemptControl) -> Path:
        """Return the folder that holds exactly these files, fetching them when it is not there.

        Two jobs that want the same model at once fetch it once: the second waits for the first.

        Raises:
            ValueError: a name leads out of the folder.
            LeaseLost, Unavailable, and what the control's check raises.
        """
        folder = self._folder(files)
        if self._is_whole(files):
            return folder
        with self._locked(folder):
            if not self._is_whole(files):
                self._fill(folder, files, control)
        return folder

    def _fill(self, folder: Path, files: tuple[FileRef, ...], control: AttemptControl) -> None:
        aside = folder.with_name(f".{folder.name}.part")  # kept after a broken fetch: what is there need not come again
        for file in files:
            target = inside(aside, file.name)
            if not (target.exists() and target.stat().st_size == file.bytes):
                control.download(file, target)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)

    def _is_whole(self, files: tuple[FileRef, ...]) -> bool:
        folder = self._folder(files)
        return folder.is_dir() and all(_size(inside(folder, file.name)) == file.bytes for file in files)

    def _folder(self, files: tuple[FileRef, ...]) -> Path:
        return self._root / set_digest(files)

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        descriptor = os.open(self._root / f"{folder.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def set_digest(files: tuple[FileRef, ...]) -> str:
    """A name for a set of files that depends on nothing but their names and hashes."""
    lines = sorted(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
