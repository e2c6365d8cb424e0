"""Ending process trees for good, and finding the ones that an earlier start of this worker left behind.

A trainer's descendants can leave its process group (torchrun gives each rank a session of its own, data loaders may
daemonise), so a tree is its group, its descendants, and every process that carries the run's mark in its environment.
The leader of the group is ended last: in a sandbox it adopts whatever the others leave, so nothing gets lost.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Container
from pathlib import Path

import psutil
from pydantic import ValidationError

from tunesmith.tuning.codes import RUN_DIRECTORY_VARIABLE
from tunesmith.tuning.values.base import Value
from tunesmith.worker.run_directory import write_atomically

STATUS_LOST = 256  # no process can end with it: somebody else took the exit status
_POLL_SECONDS = 0.02
_PR_SET_CHILD_SUBREAPER = 36


class TrainerRecord(Value):
    """Enough to know a process again: a pid alone may have been given to another one since."""

    pid: int
    started_at: float  # seconds since the epoch, from the kernel
    run_dir: str


class AdoptedProcess:
    """A child that another process bore, with what a trainer needs of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exit_code: int | None = None

    def is_ours(self) -> bool:
        """Whether it really is a child of this process, dead or alive."""
        return _parent_of(self.pid) == os.getpid()

    def poll(self) -> int | None:
        """The exit code, negative when a signal ended it; None while it runs; STATUS_LOST when nobody can know."""
        if self._exit_code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._exit_code = STATUS_LOST
            else:
                self._exit_code = os.waitstatus_to_exitcode(status) if pid else None
        return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code


def adopt_orphans(*, adopt: bool = True) -> None:
    """Have the kernel give descendants whose parents end to this process, as its own children, instead of to init."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def bury_orphans(*, but: Container[int | None]) -> None:
    """Collect the exit status of adopted children that have ended; `but` are those that somebody else waits for."""
    for child in psutil.Process().children():
        if child.pid not in but and not _alive(child):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, os.WNOHANG)


def record_trainer(folder: Path, *, name: str, pid: int, run_dir: Path) -> Path:
    """Write down that a trainer runs; remove the file when its tree is dead."""
    record = TrainerRecord(pid=pid, started_at=_started_at(pid) or 0.0, run_dir=str(run_dir))
    path = folder / f"{name}.json"
    write_atomically(path, record.model_dump_json())
    return path


def end_leftovers(folder: Path, *, runs: Path, wait_seconds: float = 10.0) -> list[int]:
    """Kill the trees of all recorded trainers and whatever else was started for a run below `runs`; return the pids."""
    ended: list[int] = []
    for path in folder.glob("*.json"):
        record = _read(path)
        if record is not None:
            group = record.pid if _started_at(record.pid) == record.started_at else None
            ended += kill_tree(group, run_dir=Path(record.run_dir), wait_seconds=wait_seconds)
        path.unlink()
    strays = [process for process in psutil.process_iter() if _is_below(_mark(process), runs)]
    _kill(strays, wait_seconds)
    return ended + [process.pid for process in strays]


def kill_tree(group: int | None, *, run_dir: Path, wait_seconds: float) -> list[int]:
    """SIGKILL a trainer's whole tree and wait a bounded time; return the pids that were alive.

    Processes that were forked while the list was made are found by looking again until nothing is left.
    """
    killed: list[int] = []
    deadline = time.monotonic() + wait_seconds
    if group is not None:
        _signal_group(group, signal.SIGSTOP)  # what stands still starts nothing new
    while True:
        alive = tree(group, run_dir=run_dir)
        if not alive or time.monotonic() > deadline:
            return killed
        followers = [process for process in alive if process.pid != group]
        killed += [process.pid for process in alive if process.pid not in killed]
        _kill(followers or alive, max(0.1, deadline - time.monotonic()))


def tree(group: int | None, *, run_dir: Path) -> list[psutil.Process]:
    """Every living process of a run."""
    below = _descendants(group)
    return [
        process
        for process in psutil.process_iter()
        if (process.pid in below or _belongs(process, group, run_dir)) and _alive(process)
    ]


def mark_of(pid: int) -> str | None:
    """The run directory that a process works for, as its environment says."""
    try:
        return psutil.Process(pid).environ().get(RUN_DIRECTORY_VARIABLE)
    except (psutil.Error, OSError):
        return None


def terminate_group(group: int) -> None:
    """SIGTERM to a process group that may be gone already."""
    _signal_group(group, signal.SIGTERM)


def _belongs(process: psutil.Process, group: int | None, run_dir: Path) -> bool:
    if process.pid == os.getpid():
        return False
    return (group is not None and _group_of(process.pid) == group) or _mark(process) == str(run_dir)


def _descendants(leader: int | None) -> set[int]:
    if leader is None or _group_of(leader) != leader:  # its number may be another process's by now
        return set()
    try:
        return {child.pid for child in psutil.Process(leader).children(recursive=True)}
    except psutil.Error:
        return set()


def _kill(processes: list[psutil.Process], wait_seconds: float) -> None:
    for process in processes:
        _quietly(process.kill)
    deadline = time.monotonic() + wait_seconds
    # not psutil's own wait: it would reap the trainer, and with it the exit code
    while any(_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _signal_group(group: int, number: signal.Signals) -> None:
    _quietly(lambda: os.killpg(group, number))


def _quietly(act: Callable[[], object]) -> None:
    try:
        act()
    except (ProcessLookupError, PermissionError, psutil.Error):
        return


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _mark(process: psutil.Process) -> str | None:
    return mark_of(process.pid)


def _parent_of(pid: int) -> int | None:
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return None


def _is_below(mark: str | None, runs: Path) -> bool:
    return mark is not None and runs in Path(mark).parents


def _started_at(pid: int) -> float | None:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def _read(path: Path) -> TrainerRecord | None:
    try:
        return TrainerRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
