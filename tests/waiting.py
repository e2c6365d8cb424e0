"""Waiting for a sign of another process, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_SECONDS = 240.0  # generous: a deadline is only for what never happens, and test machines are busy
Found = TypeVar("Found")


def eventually(
    look: Callable[[], Found | None],
    *,
    seconds: float = PATIENCE_SECONDS,
    what: Callable[[], str] | str = "it",
    pause_seconds: float = 0.1,
) -> Found:
    """The first true answer.

    Raises:
        AssertionError: there was none within `seconds`; it says `what` was awaited.
    """
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(pause_seconds)
