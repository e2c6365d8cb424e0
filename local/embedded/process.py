"""Starting and stopping child processes that never outlive this one by accident."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl  # resolved before any fork: the child only calls it
_POLL_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Command:
    """One program to run: argument list, complete environment, and the user to run as (None: the same user)."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    user_id: int | None = None
    parent_death_signal: signal.Signals = signal.SIGTERM


def spawn(command: Command, *, log: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start `command` in its own session, its output appended to `log`.

    The kernel signals the child when the calling THREAD ends, so call this from a thread that lives as long as the
    child should (the main thread). The setting survives `unshare --user`, because that only execs.
    """
    as_user: dict[str, Any] = {}
    if command.user_id is not None:
        as_user = {"user": command.user_id, "group": command.user_id, "extra_groups": []}
    with log.open("ab") as output:
        return subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent(command.parent_death_signal),  # noqa: PLW1509 - main thread, one prctl call
            **as_user,
        )


def stop(
    process: subprocess.Popen[bytes],
    *,
    first: signal.Signals,
    grace_seconds: float,
    then: signal.Signals = signal.SIGKILL,
) -> int:
    """Ask with `first`, wait `grace_seconds`, insist with `then`; returns the exit status."""
    if process.poll() is None:
        process.send_signal(first)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(grace_seconds)
    process.send_signal(then)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(10)
    process.kill()
    return process.wait(10)


def end_stray(pid: int, *, signals: tuple[signal.Signals, ...], grace_seconds: float) -> bool:
    """End a process that is not our child: each signal in turn, waiting `grace_seconds` after each. True when gone."""
    for number in signals:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        if wait_until(lambda: not alive(pid), timeout_seconds=grace_seconds):
            return True
    return not alive(pid)


def alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie is dead."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float) -> bool:
    """Poll `condition` until it holds or the time is over; returns whether it holds."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def tail(log: Path, *, lines: int = 20, max_bytes: int = 16_384) -> str:
    """The last lines of a log file, or an empty string when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _die_with_parent(number: signal.Signals) -> Callable[[], None]:
    parent = os.getpid()

    def in_child() -> None:
        _prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and prctl: no signal would ever come
            os._exit(1)

    return in_child
