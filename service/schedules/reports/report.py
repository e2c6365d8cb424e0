"""Where the time of a due time's jobs went: arithmetic on rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

from tunesmith.service.schedules.reports.store import FiredAttempt
from tunesmith.tuning.api.nightly.reports import ScheduleReportObject
from tunesmith.tuning.state import JobState


def reports_of(rows: Iterable[FiredAttempt]) -> list[ScheduleReportObject]:
    """One report for each due time, in the order of the rows."""
    return [_report(list(group)) for _, group in groupby(rows, key=lambda row: row.due_at)]


def _report(rows: Sequence[FiredAttempt]) -> ScheduleReportObject:
    jobs = list({row.job_id: row for row in reversed(rows) if row.job_id}.values())  # each with its first attempt
    trained = [job for job in jobs if job.job_state == JobState.SUCCEEDED]
    ended = [job.finished_at for job in trained if job.finished_at]
    wall = (max(ended) - min(job.created_at for job in trained if job.created_at)).total_seconds() if ended else None
    training = _sum(trained, "training_seconds")
    return ScheduleReportObject(
        due_at=int(rows[0].due_at.timestamp()),
        firings=dict(Counter({row.firing_id: row.firing_state for row in rows}.values())),
        jobs=len(jobs),
        trained=len(trained),
        wall_seconds=wall,
        longest_wait_seconds=max(_waits(trained), default=None),
        startup_seconds=_sum(trained, "startup_seconds"),
        training_seconds=training,
        wall_over_training=wall / training if wall is not None and training else None,
        base_changes=_base_changes(rows),
    )


def _waits(jobs: Iterable[FiredAttempt]) -> Iterator[float]:
    for job in jobs:
        if job.started_at is not None and job.created_at is not None:
            yield (job.started_at - job.created_at).total_seconds()


def _sum(jobs: Iterable[FiredAttempt], name: str) -> float | None:
    """Of what the results say; None where none says it."""
    found = [_number((job.result or {}).get(name)) for job in jobs]
    known = [number for number in found if number is not None]
    return sum(known) if known else None


def _number(value: Any) -> float | None:
    """What a worker has reported may be anything."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _base_changes(rows: Sequence[FiredAttempt]) -> int:
    by_worker: dict[str, list[str | None]] = {}
    for row in rows:
        if row.worker_id is not None:
            by_worker.setdefault(row.worker_id, []).append(row.base_digest)
    return sum(before != after for bases in by_worker.values() for before, after in pairwise(bases))
