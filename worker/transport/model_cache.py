"""Base models on this host: fetched once, verified by hash, and shared by every job that starts from them."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import structlog

from tunesmith.tuning.messages import FileRef, set_digest
from tunesmith.worker.hashes import Seal, sha256_of
from tunesmith.worker.work_directory import inside

log = structlog.get_logger(__name__)

_DIGEST_LENGTH = 64
HASHED_AT_ONCE = 4  # files; one thread hashes about 1.5 GB a second


class FileSource(Protocol):
    """Where files come from."""

    def download(self, file: FileRef, target: Path) -> None:
        """Fetch a file to `target`, which exists only when its bytes have the right hash."""


class ModelCache:
    """Folders named by their content. A folder appears whole, because it is filled aside and renamed.

    Trainers can write to these files, so none is used before its hash was found right by this object; which it was is
    kept in this process's memory alone, out of their reach.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seals: dict[Path, Seal] = {}

    def missing_bytes(self, files: tuple[FileRef, ...]) -> int:
        """How much would have to be fetched."""
        return 0 if self._is_whole(files) else sum(file.bytes for file in files)

    def kept(self) -> tuple[str, ...]:
        """Set digests of the models that lie here whole."""
        names = (folder.name for folder in self._root.glob("[0-9a-f]*") if folder.is_dir())
        return tuple(sorted(name for name in names if len(name) == _DIGEST_LENGTH))

    def fetch(self, files: tuple[FileRef, ...], source: FileSource) -> Path:
        """Return the folder that holds exactly these files, fetching what is not there or was altered.

        Two jobs that want the same model at once fetch it once: the second waits for the first.

        Raises:
            ValueError: a name leads out of the folder.
            LeaseLost, Unavailable, and what the source raises.
        """
        folder = self._folder(files)
        if self._is_whole(files) and self._is_right(folder, files):
            return folder
        with self._locked(folder):
            if not (self._is_whole(files) and self._is_right(folder, files)):
                self._fill(folder, files, source)
                self._seals |= {path: Seal.on(path, sha256=file.sha256) for path, file in _paths(folder, files)}
        return folder

    def seals(self, files: tuple[FileRef, ...]) -> dict[str, Seal]:
        """What is known of the files that `fetch` returned, for a trainer that would hash them again."""
        return {str(path): self._seals[path] for path, _ in _paths(self._folder(files), files)}

    def _is_right(self, folder: Path, files: tuple[FileRef, ...]) -> bool:
        """Whether every file hashes to what it should; hashes only those that are not the ones hashed before."""
        unknown = [(path, file) for path, file in _paths(folder, files) if not self._is_sealed(path, file)]
        with ThreadPoolExecutor(HASHED_AT_ONCE) as threads:
            found = list(threads.map(lambda one: _sealed(one[0]), unknown))
        for (path, file), seal in zip(unknown, found, strict=True):
            if seal is None or seal.sha256 != file.sha256:
                log.warning("model.altered", folder=folder.name, file=file.name)
                return False
            self._seals[path] = seal
        return True

    def _is_sealed(self, path: Path, file: FileRef) -> bool:
        seal = self._seals.get(path)
        return seal is not None and seal.sha256 == file.sha256 and seal.is_intact(path)

    def _fill(self, folder: Path, files: tuple[FileRef, ...], source: FileSource) -> None:
        aside = folder.with_name(f".{folder.name}.part")  # kept after a broken fetch: what is there need not come again
        for file in files:
            target = inside(aside, file.name)
            if not (target.exists() and target.stat().st_size == file.bytes):
                source.download(file, target)
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


def _paths(folder: Path, files: tuple[FileRef, ...]) -> list[tuple[Path, FileRef]]:
    return [(inside(folder, file.name), file) for file in files]


def _sealed(path: Path) -> Seal | None:
    """Hash a file; None when it is written to, or goes away, meanwhile."""
    try:
        before = Seal.on(path, sha256="")
        seal = before.model_copy(update={"sha256": sha256_of(path)})
    except FileNotFoundError:
        return None
    return seal if seal.is_intact(path) else None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
