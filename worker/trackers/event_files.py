"""`python -m tunesmith.worker.trackers.event_files METRICS FOLDER`: metric lines as TensorBoard's event files.

A process of its own: the library would load torch into the worker, and lines of a trainer are not to be trusted.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tunesmith.worker.run_directory import without_links

_NO_CURVES = ("step", "total_steps", "time")


def main() -> int:
    """Write the files."""
    metrics, folder = map(Path, sys.argv[1:3])
    write_event_files(metrics, folder)
    return 0


def write_event_files(metrics: Path, folder: Path) -> None:
    """One curve for each metric, over steps, at the times that they were measured."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # seconds of loading, and not needed
    from tensorboardX import SummaryWriter  # noqa: PLC0415 - after the line above

    with SummaryWriter(logdir=str(folder)) as writer, open(metrics, "rb", opener=without_links) as lines:
        for point, curves in curves_of(lines):
            for name, value in curves.items():
                writer.add_scalar(name, value, int(point["step"]), walltime=point.get("time"))


def curves_of(lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """Points with what of them is a curve: finite numbers, of whole lines that say their step."""
    for line in lines:
        try:
            point = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(point, dict) and _is_finite(point.get("step")):
            yield point, {key: value for key, value in point.items() if key not in _NO_CURVES and _is_finite(value)}


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


if __name__ == "__main__":
    sys.exit(main())
