"""Whom the kernel ends when the memory of a host or of a group runs out."""

import contextlib
from pathlib import Path

_FIRST = "1000"  # https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html


def be_killed_first(pid: int) -> None:
    """Have a process, and its children to come, chosen before all others: before the worker, and before a database."""
    with contextlib.suppress(OSError):  # it has ended, or /proc cannot be written in a container
        Path("/proc", str(pid), "oom_score_adj").write_text(_FIRST)
