"""How right predictions are now: the newest runs of each kind together, for people and for monitoring."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import Row

from tunesmith.tuning.estimates.measured import LATEST_RUNS, Measurement, measurement_of
from tunesmith.tuning.words import Method


@dataclass(frozen=True)
class Measured:
    """A run or a canary, and where and when it was."""

    run: Measurement
    worker_class: str
    model: str
    at: int  # Unix seconds


@dataclass(frozen=True)
class Kind:
    """What measurements are kept apart by."""

    worker_class: str
    model: str
    method: Method
    kernels: str


@dataclass(frozen=True)
class Error:
    """Medians over the newest runs of a kind; 0.1 means that 10 % more was needed than predicted."""

    kind: Kind
    runs: int
    canaries: int
    memory: float | None
    time: float | None
    newest_at: int


def measured_in(rows: Iterable[Row[Any]]) -> Iterator[Measured]:
    """From attempts as `store.find_measured` gives them: the whole run, else its canary."""
    for row in rows:
        run = (
            measurement_of(row.plan, row.result)
            if row.succeeded
            else measurement_of(row.plan, row.canary, is_canary=True)
        )
        yield Measured(run, worker_class=row.worker_class, model=row.model, at=int(row.at.timestamp()))


def current_errors(measured: Iterable[Measured]) -> list[Error]:
    """By kind, from measurements that come newest first. Canaries count where no run has finished."""
    groups: dict[Kind, list[Measured]] = {}
    for one in measured:
        kind = Kind(one.worker_class, one.model, one.run.method, one.run.kernels)
        groups.setdefault(kind, []).append(one)
    return [_error(kind, group) for kind, group in groups.items()]


def memory_error(run: Measurement) -> float | None:
    """Of the peak, against what was predicted for it."""
    return _over(run.peak_memory_bytes, run.predicted_peak_bytes)


def time_error(run: Measurement) -> float | None:
    """Of the time that the same tokens took, against what was predicted for it."""
    return _over(run.predicted_tokens_per_second, run.tokens_per_second)


def _error(kind: Kind, group: list[Measured]) -> Error:
    runs = [one.run for one in group if not one.run.is_canary]
    canaries = [one.run for one in group if one.run.is_canary]
    newest = (runs or canaries)[:LATEST_RUNS]
    return Error(
        kind=kind,
        runs=len(runs),
        canaries=len(canaries),
        memory=_median([memory_error(run) for run in newest]),
        time=_median([time_error(run) for run in newest]),
        newest_at=max(one.at for one in group),
    )


def _median(errors: list[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    return median(known) if known else None


def _over(measured: float | None, predicted: float | None) -> float | None:
    return measured / predicted - 1 if measured is not None and predicted else None
