"""Lets /proc/PID/environ of a forked process show the environment that it has, not the one its parent began with.

The kernel shows the memory where it put the strings when the program began. A fork has its own copy of that memory, so
it can write there; what a child of a trainer inherits by a fork of its own then tells the truth too. By these bytes a
worker finds the processes of a run.
"""

import ctypes
from collections.abc import Mapping
from pathlib import Path


def show_environment(environment: Mapping[str, str]) -> None:
    """Overwrite this process's first environment.

    Raises:
        ValueError: it does not fit into the place of the one that the program began with.
    """
    start, end = _area()
    content = b"".join(f"{name}={value}\0".encode() for name, value in environment.items())
    if len(content) > end - start:
        raise ValueError(f"{len(content)} bytes of environment do not fit into {end - start}")
    ctypes.memmove(start, content.ljust(end - start, b"\0"), end - start)


def _area() -> tuple[int, int]:
    """Where the kernel put the environment: fields 50 and 51 of /proc/self/stat."""
    after_name = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(after_name[47]), int(after_name[48])
    if not 0 < start < end:
        raise ValueError("the kernel does not tell where this process's environment lies")
    return start, end
