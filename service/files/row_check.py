"""`python -m tunesmith.service.files.row_check < FILE`: the file's hash and the check of its rows, as JSON.

A process of its own, because reading JSON holds Python's lock: one row of two megabytes stopped the API for a second.
"""

import hashlib
import os
import sys

from tunesmith.tuning.datasets.rows import RowChecker, RowReport
from tunesmith.tuning.values.base import Value

_CHUNK_BYTES = 1024 * 1024
_POLITENESS = 5  # requests and heartbeats go first


class CheckedRows(Value):
    """What is known of a file when it was read once."""

    sha256: str
    """Of all its bytes."""
    length_bytes: int
    """How many those are."""
    report: RowReport
    """What the check of its rows found."""


def main() -> int:
    """Print `CheckedRows`."""
    os.nice(_POLITENESS)
    print(check(sys.stdin.fileno()).model_dump_json(round_trip=True))
    return 0


def check(descriptor: int) -> CheckedRows:
    """Read a file from its start, wherever whoever opened it has got to."""
    digest, checker, length_bytes = hashlib.sha256(), RowChecker(), 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, length_bytes):
        digest.update(chunk)
        checker.feed(chunk)
        length_bytes += len(chunk)
    return CheckedRows(sha256=digest.hexdigest(), length_bytes=length_bytes, report=checker.finish())


if __name__ == "__main__":
    sys.exit(main())
