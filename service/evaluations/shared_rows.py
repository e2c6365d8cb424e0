"""`python -m tunesmith.service.evaluations.shared_rows FOLDER NAME...`: evaluated rows that each named file has, too.

A process of its own, because reading JSON holds Python's lock. A line for each file, with the number.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tunesmith.tuning.datasets.doctor.row_hashes import RowHashes, row_hash
from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.datasets.row_formats import Row
from tunesmith.tuning.datasets.row_parser import parse_row

EVALUATED = "evaluated"
_POLITENESS = 5  # requests and heartbeats go first


def main() -> int:
    """Print the numbers."""
    os.nice(_POLITENESS)
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        print(shared(folder / EVALUATED, folder / name))
    return 0


def shared(evaluated: Path, other: Path) -> int:
    """How many rows of the first file are in the other; eight bytes a row are kept of that."""
    seen = RowHashes()
    for row in _rows(other):
        seen.add(row_hash(row))
    return sum(row_hash(row) in seen for row in _rows(evaluated))


def _rows(path: Path) -> Iterator[Row]:
    """The good ones: whether others are in it was said at the upload."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = parse_row(line.rstrip(b"\n"), number=number)
            except BadRow:
                continue
            if row is not None:
                yield row


if __name__ == "__main__":
    sys.exit(main())
