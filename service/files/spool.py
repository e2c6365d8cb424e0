"""Where uploads are put aside until they are checked: a folder for each process, and nothing left of dead ones."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "serve-"


@contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, removed at the end. Those that killed processes left are removed first.

    A folder is alive while its maker holds a lock on it, which the kernel takes away from the dead.
    """
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(parent):  # nobody looks at a folder between its making and its locking
        for left in parent.glob(f"{_PREFIX}*"):
            _remove_if_dead(left)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def spooling_in(parent: Path | None) -> Iterator[None]:
    """Temporary files of this process lie below `parent` meanwhile; where the system has them when there is none."""
    if parent is None:
        yield
        return
    before = tempfile.tempdir
    with own_folder(parent) as folder:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_dead(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its process has ended in order at this moment
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
