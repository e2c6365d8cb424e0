"""What a run has on its worker's disk beside what its plan predicts: a trainer that fills the disk is stopped."""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import Category, Failure
from tunesmith.tuning.messages import Claim
from tunesmith.tuning.values.units import GIB, gib
from tunesmith.worker.attempt.disk.room import needed_bytes, weights_bytes
from tunesmith.worker.trainer_process.processes import tree

_ALWAYS_BYTES = 2 * GIB  # logs, samples, compiled kernels: small things that no plan counts
_MOST_FILES = 200_000
_BLOCK_BYTES = 512  # of `st_blocks`: what a file takes, which in one with holes is less than its length
_SECONDS_BETWEEN_LOOKS = 2.0
_MOST_SHARE_OF_TIME = 0.02


@dataclass(frozen=True)
class DiskLimits:
    """What may lie in the folders that a trainer writes to."""

    bytes: int
    files: int = _MOST_FILES


@dataclass(frozen=True)
class DiskUse:
    """What lies there, and what was deleted and is still held open."""

    bytes: int = 0
    files: int = 0

    def exceeds(self, limits: DiskLimits) -> bool:
        """Whether it is more than it may be."""
        return self.bytes > limits.bytes or self.files > limits.files


def disk_limits(claim: Claim, *, times_planned: float) -> DiskLimits:
    """Some times what the plan predicts, the weights once for a merged result, and two GiB."""
    planned = needed_bytes(claim, missing_model_bytes=0)
    return DiskLimits(bytes=int(planned * times_planned) + weights_bytes(claim) + _ALWAYS_BYTES)


class DiskWatch:
    """Looks every two seconds, and more rarely where looking takes long. What `home` held before does not count."""

    def __init__(
        self,
        root: Path,
        limits: DiskLimits,
        *,
        home: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._home = home
        self._clock = clock
        before = _use_of(_below(home)) if home else DiskUse()
        self._limits = DiskLimits(bytes=limits.bytes + before.bytes, files=limits.files + before.files)
        self._next_look = clock()

    def overfull(self, leader: int) -> Failure | None:
        """Why the trainer of this process number must be stopped, if it must."""
        began = self._clock()
        if began < self._next_look:
            return None
        used = self._look(leader)
        took = self._clock() - began
        self._next_look = began + max(_SECONDS_BETWEEN_LOOKS, took / _MOST_SHARE_OF_TIME)
        return _failure(used, self._limits) if used.exceeds(self._limits) else None

    def _look(self, leader: int) -> DiskUse:
        folders = [folder for folder in (self._root, self._home) if folder]
        pids = [process.pid for process in tree(leader, run_dir=self._root)]
        return _use_of(_all_files(folders, held_by=pids, device=self._root.stat().st_dev))


def _use_of(files: Iterator[os.stat_result]) -> DiskUse:
    """A file of several names counts once."""
    seen: set[tuple[int, int]] = set()
    blocks = 0
    for found in files:
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            blocks += found.st_blocks
    return DiskUse(bytes=blocks * _BLOCK_BYTES, files=len(seen))


def _all_files(folders: list[Path], *, held_by: list[int], device: int) -> Iterator[os.stat_result]:
    for folder in folders:
        yield from _below(folder)
    for pid in held_by:
        yield from (file for file in _deleted_and_open(pid) if file.st_dev == device)


def _below(folder: Path) -> Iterator[os.stat_result]:
    """Everything in a folder that may change meanwhile. No link is followed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield from _seen(entry, follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    yield from _below(Path(entry.path))
    except OSError:
        return


def _deleted_and_open(pid: int) -> Iterator[os.stat_result]:
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                for found in _seen(descriptor, follow_symlinks=True):
                    if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                        yield found
    except OSError:  # the process has ended
        return


def _seen(entry: "os.DirEntry[str]", *, follow_symlinks: bool) -> Iterator[os.stat_result]:
    """Nothing of what is gone meanwhile."""
    with contextlib.suppress(OSError):
        yield entry.stat(follow_symlinks=follow_symlinks)


def _failure(used: DiskUse, limits: DiskLimits) -> Failure:
    message = (
        f"The run has written {gib(used.bytes)} in {used.files:,} files; "
        f"{gib(limits.bytes)} in {limits.files:,} files are allowed by its plan. It was stopped."
    )
    return Failure(
        code=ErrorCode.RUN_WRITES_TOO_MUCH,
        message=message,
        category=Category.INTERNAL,
        retryable=False,
        hint="Look into its log for what it wrote. If the plan is what is wrong, raise TUNESMITH_DISK_TIMES_PLANNED "
        "of the worker.",
    )
