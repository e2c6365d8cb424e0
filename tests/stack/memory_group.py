"""A control group whose memory has a limit, for a worker and all that it starts."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_MOUNT = Path("/sys/fs/cgroup")
_UNLIMITED = {"memory.max": "max", "memory.limit_in_bytes": "-1"}


class MemoryGroup:
    """Of cgroup version 2 or 1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._limit = next(folder / name for name in _UNLIMITED if (folder / name).exists())

    def add(self, pid: int) -> None:
        """A process; its children to come belong to the group too."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def hold(self, *, more_bytes: int) -> None:
        """Allow so much more than is taken now. Raises OSError while the kernel cannot give enough back."""
        fields = dict(line.split() for line in (self._folder / "memory.stat").read_text().splitlines())
        taken = int(fields.get("anon") or fields["total_rss"])
        self._limit.write_text(str(taken + more_bytes))

    def release(self) -> None:
        """Allow everything."""
        self._limit.write_text(_UNLIMITED[self._limit.name])


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Skips the test where no group can be made."""
    top = _MOUNT if (_MOUNT / "cgroup.controllers").exists() else _MOUNT / "memory"
    folder = top / f"tunesmith-test-{os.getpid()}"
    try:
        folder.mkdir()
        group = MemoryGroup(folder)
    except (OSError, StopIteration) as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no group with a limit of memory can be made here: {error!r}")
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):  # a process of it is still there: the test has failed, and says so itself
            folder.rmdir()
