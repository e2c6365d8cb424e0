"""Log files of the stack: a new one per start, none without a bound."""

import contextlib
import os
import shutil
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
KEPT = 3


def rotate(log: Path) -> None:
    """`api.log` becomes `api.log.1`, that becomes `.2`, and so on up to KEPT."""
    if not log.exists() or log.stat().st_size == 0:
        return
    for number in range(KEPT - 1, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            _numbered(log, number).rename(_numbered(log, number + 1))
    log.rename(_numbered(log, 1))


def bound(log: Path, *, max_bytes: int = MAX_BYTES) -> bool:
    """Copy a log that has grown too large to `.1` and empty it, while its writer goes on. Returns whether it did.

    The writer holds the file open in append mode, so after the truncation it continues at the start; a line
    written between the copy and the truncation is lost, which is the price of not asking every program to reopen.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
        shutil.copyfile(log, _numbered(log, 1))
        os.truncate(log, 0)
    except OSError:  # a full disk must not end the supervisor
        return False
    return True


def _numbered(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
