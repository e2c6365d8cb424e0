"""How long an attempt took before its first training step: what a small retrain pays beside its training."""

import json
from pathlib import Path

from tunesmith.tuning.state import Phase
from tunesmith.worker.run_directory import without_links

_MOST_BYTES = 2**20  # of a timeline: a trainer writes a few lines


def startup_seconds(timeline: Path, *, since: float) -> float | None:
    """Seconds from `since`, in Unix time, to the trainer's first step; None where it never said that it began one."""
    try:
        with open(timeline, encoding="utf-8", errors="replace", opener=without_links) as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except OSError:
        return None
    moments = (_training_began(line) for line in lines)
    began = next((moment for moment in moments if moment is not None), None)
    return None if began is None else max(0.0, began - since)


def _training_began(line: str) -> float | None:
    try:
        record = json.loads(line)
        return float(record["time"]) if record["reached"] == Phase.TRAINING.value else None
    except (ValueError, TypeError, KeyError):  # half a line, or whatever else a trainer has written
        return None
