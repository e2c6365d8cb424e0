"""`python -m tunesmith.worker.trackers.event_files METRICS FOLDER`: metric lines as TensorBoard's event files.

A process of its own: the library would load torch into the worker, and lines of a trainer are not to be trusted.
"""

import json
import math
import sys
from collections.abc import Iterator
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

    with SummaryWriter(logdir=str(folder)) as writer:
        for point in _points(metrics):
            for name, value in point.items():
                if name not in _NO_CURVES and _is_finite(value):
                    writer.add_scalar(name, value, int(point["step"]), walltime=point.get("time"))


def _points(metrics: Path) -> Iterator[dict[str, Any]]:
    """Whole lines that say their step; a dying trainer leaves a half one."""
    with open(metrics, encoding="utf-8", errors="replace", opener=without_links) as file:
        for line in file:
            try:
                point = json.loads(line)
            except ValueError:
                continue
            if isinstance(point, dict) and _is_finite(point.get("step")):
                yield point


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


if __name__ == "__main__":
    sys.exit(main())
