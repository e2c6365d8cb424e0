"""Which tokens of the first rows are taught, in colour where there is any, else between brackets."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from tunesmith.cli import output
from tunesmith.cli.trainer import run_tool

_GREEN, _RESET = "\033[32m", "\033[0m"


def mask_lines(rows: Path, *, model: Path, count: int) -> Iterator[str]:
    """The first rows as the trainer will have them, by its own template and marks.

    Raises:
        ToolFailed: the trainer's libraries are not installed, or the model's template takes no such rows.
    """
    with TemporaryDirectory(prefix="tunesmith-preview-") as folder, rows.open("rb") as file:
        first = Path(folder) / "rows.jsonl"
        first.write_bytes(b"".join(islice(file, count)))
        answer = json.loads(run_tool("tunesmith.worker.train.mask_preview", str(model.absolute()), str(first)))
    start, end = (_GREEN, _RESET) if output.has_color(sys.stdout) else ("[[", "]]")
    for row in answer:
        yield f"row {row['line']}: {row['supervised_tokens']:,} of {row['tokens']:,} tokens are taught"
        yield "".join(f"{start}{part}{end}" if is_taught else part for part, is_taught in row["parts"])
