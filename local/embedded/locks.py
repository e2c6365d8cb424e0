"""One `tunesmith up` per data directory: a lock the kernel drops when its holder dies, however it dies."""

import errno
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.cli.connection import LOCK_NAME
from tunesmith.local.embedded.errors import DirectoryInUse, DirectoryUnusable, DiskFull

FILE_NAME = LOCK_NAME
_GLANCE_SECONDS = 0.3  # for which clients that look whether it is held may hold it
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a data directory, as the lock file says. `base_url` is empty until the address is known."""

    pid: int
    base_url: str = ""
    ready: bool = False


class DirectoryLock:
    """`flock` on `data_dir/up.lock`. The file's content only tells others who holds it; the lock is the kernel's."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock now. Raises DirectoryInUse naming the holder, or DirectoryUnusable."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"The disk that holds {self._path.parent} is full.", hint="free some space") from error
            raise DirectoryUnusable(
                f"{self._path} cannot be opened: {error.strerror}.", hint="choose a --data-dir that you may write to"
            ) from error
        if not _locked(descriptor):
            os.close(descriptor)
            raise self._in_use()
        self._descriptor = descriptor
        self.announce(Holder(pid=os.getpid()))

    def announce(self, holder: Holder) -> None:
        """Tell others who holds the directory, where it answers, and whether it does yet."""
        assert self._descriptor is not None, "acquire() comes first"  # noqa: S101 - for programmers
        text = json.dumps(asdict(holder)).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text, 0)

    def release(self) -> None:
        """Drop the lock; the file stays, because removing it would let two holders lock two different files."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _in_use(self) -> DirectoryInUse:
        holder = read_holder(self._path.parent)
        who = f"process {holder.pid}" if holder else "another process"
        where = f" and answers on {holder.base_url}" if holder and holder.base_url else ""
        stop = f"stop it with Ctrl-C or `kill {holder.pid}`" if holder else "stop it"
        return DirectoryInUse(
            f"{self._path.parent} is in use: {who} runs `tunesmith up` there{where}.",
            hint=f"use that one, {stop}, or choose another --data-dir",
        )


def _locked(descriptor: int) -> bool:
    deadline = time.monotonic() + _GLANCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True


def read_holder(data_dir: Path) -> Holder | None:
    """The last announcement, None when there is none (or it is being written this instant)."""
    try:
        return Holder(**json.loads((data_dir / FILE_NAME).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
