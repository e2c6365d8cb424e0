"""Foreign code that must end: a bound on the time and the memory of a chat template's rendering."""

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

PAGE_BYTES = resource.getpagesize()


class TookTooLong(Exception):
    """The time was up."""


@contextlib.contextmanager
def bounded(*, seconds: float, extra_bytes: int) -> Iterator[None]:
    """Run the body for at most `seconds`, with at most `extra_bytes` of address space more than now.

    Both bounds belong to the whole process, so they hold in its main thread only; elsewhere the body runs unbounded.

    Raises:
        TookTooLong: the time was up.
        MemoryError: by what asked for too much.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _at_most_seconds(seconds), _at_most_bytes(extra_bytes):
        yield


@contextlib.contextmanager
def _at_most_seconds(seconds: float) -> Iterator[None]:
    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _at_most_bytes(extra: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    bound = pages * PAGE_BYTES + extra
    if soft != resource.RLIM_INFINITY:
        bound = min(bound, soft)
    resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
