"""Any file of rows as JSON lines: tables and JSON arrays are converted beside, with a preview of the first rows."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from tunesmith.cli import output
from tunesmith.cli.data.columns import Mapped, mapped
from tunesmith.cli.data.records import Placed, is_convertible, records, refused
from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.values.units import plural

_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 100


@contextmanager
def as_json_lines(path: Path) -> Iterator[Path]:
    """The file itself where it holds JSON lines, else a converted one that vanishes after the block.

    Raises:
        InvalidTrainingFile: it cannot be converted, with the line or row.
    """
    if not is_convertible(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="tunesmith-rows-") as folder:
        target = Path(folder) / f"{path.stem}.jsonl"
        convert(path, target)
        yield target


def convert(source: Path, target: Path) -> int:
    """Write the rows of a table or JSON array to `target`, one JSON object a line; returns how many.

    Raises:
        InvalidTrainingFile: with the line or row of the first that is broken.
    """
    placed = records(source)
    first = next(placed, None)
    if first is None:
        raise refused(source, "it has no rows.", hint="The first line of a table names its columns.")
    mapping = mapped(tuple(first.record), name=source.name)
    lines = _lines(source, chain((first,), placed), mapping)
    shown = list(islice(lines, _SHOWN_ROWS))
    _preview(source, mapping, shown)
    count = 0
    with target.open("x", encoding="utf-8") as file:
        for line in chain(shown, lines):
            file.write(line + "\n")
            count += 1
    output.note(f"{source.name}: {plural(count, 'row')}")
    return count


def _lines(source: Path, placed: Iterator[Placed], mapping: Mapped) -> Iterator[str]:
    for place, record in placed:
        try:
            yield json.dumps(mapping.row(record), ensure_ascii=False, default=str)
        except BadRow as bad:
            raise refused(source, f"{place}: {bad.reason}.", hint=bad.fix) from bad


def _preview(source: Path, mapping: Mapped, lines: list[str]) -> None:
    columns = ", ".join(f"{column} as {key}" if column != key else key for column, key in mapping.keys.items())
    without = f"; without {', '.join(mapping.left_out)}" if mapping.left_out else ""
    output.note(f"{source.name} is converted: {columns}{without}")
    for line in lines:
        output.note("  " + (line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"))
