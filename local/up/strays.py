"""Finding processes of this stack that nobody watches any more, by a mark in their environment."""

import contextlib
import os
import signal
from pathlib import Path

from tunesmith.local.embedded.process import alive, wait_until
from tunesmith.tuning.codes import RUN_DIRECTORY_VARIABLE, STACK_VARIABLE

MARK = STACK_VARIABLE


def find(data_dir: Path) -> list[int]:
    """Every process started for the stack in `data_dir`, however deep, whatever its session. Needs /proc."""
    root = data_dir.resolve()
    mark, run_mark = os.fsencode(f"{MARK}={root}"), os.fsencode(f"{RUN_DIRECTORY_VARIABLE}={root}/")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone in the meantime, or another user's
            variables = (entry / "environ").read_bytes().split(b"\0")
            ours = mark in variables or any(variable.startswith(run_mark) for variable in variables)
            if ours and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def end(data_dir: Path, *, grace_seconds: float) -> int:
    """End them: SIGTERM, `grace_seconds` to finish, SIGKILL. Returns how many there were.

    Only the holder of the directory's lock may call this: everything that carries the mark is then left over.
    """
    ended = set(find(data_dir))
    _signal_all(ended, signal.SIGTERM)
    if ended and not wait_until(lambda: not find(data_dir), timeout_seconds=grace_seconds):
        left = set(find(data_dir))
        _signal_all(left, signal.SIGKILL)
        wait_until(lambda: not find(data_dir), timeout_seconds=5)
        ended |= left
    return len(ended)


def _signal_all(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
