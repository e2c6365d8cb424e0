"""What a run over a cluster was made of, as a row of a page: a proof says when, with which seed, and of what."""

import datetime as dt
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HEADING = "| date | seed | disturbed | jobs | attempts | looks | disturbances |"
_KEPT_ROWS = 10


@dataclass(frozen=True)
class ClusterRun:
    """One that kept every promise: a run that does not has no report, but a failure with its seed."""

    seed: int
    began_on: dt.date
    disturbed_seconds: float
    jobs: Counter[str]
    attempts: Counter[str]
    looks: int
    disturbances: Counter[str]

    def row(self) -> str:
        """For a table under the heading."""
        minutes = f"{self.disturbed_seconds / 60:.0f} min"
        counts = [_told(self.jobs), _told(self.attempts), str(self.looks), _told(self.disturbances)]
        return f"| {' | '.join([str(self.began_on), str(self.seed), minutes, *counts])} |"


def add_to(page: Path, run: ClusterRun) -> None:
    """Put a run's row first below the heading of the page's table, which keeps the newest few."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = lines.index(HEADING) + 2
    end = next((place for place in range(first, len(lines)) if not lines[place].startswith("|")), len(lines))
    lines[first:end] = [run.row(), *lines[first:end]][:_KEPT_ROWS]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"
