"""How right predictions were, as tables: each finished run, and what the newest of each kind come to."""

import time

from tunesmith.cli import output
from tunesmith.tuning.api.accuracy import AccuracyList, CurrentError, MeasuredPlan
from tunesmith.tuning.values.units import GIB


def show_accuracy(answer: AccuracyList) -> None:
    """A line for each finished run, then one for each kind of run with its current errors."""
    pairs, kinds = answer.data, answer.kinds
    if not pairs and not kinds:
        output.note("No run of this project has finished yet.")
        return
    if pairs:
        columns = ("JOB", "WORKER CLASS", "MODEL", "METHOD", "PEAK GIB", "MEASURED", "ERROR")
        speed = ("TOKENS/S", "MEASURED", "ERROR")
        output.table([*columns, *speed], [_pair(pair) for pair in pairs])
        output.note()
    kinds_of = (
        "WORKER CLASS",
        "MODEL",
        "METHOD",
        "KERNELS",
        "RUNS",
        "CANARIES",
        "MEMORY ERROR",
        "TIME ERROR",
        "NEWEST",
    )
    output.table(kinds_of, [_kind(kind) for kind in kinds])
    _note_errors("peak memory", [pair.peak_error for pair in pairs])
    _note_errors("speed", [pair.speed_error for pair in pairs])


def _note_errors(name: str, errors: list[float | None]) -> None:
    if known := sorted(abs(error) for error in errors if error is not None):
        output.note(f"{name}: median error {known[len(known) // 2]:.0%}, largest {known[-1]:.0%}")


def _kind(kind: CurrentError) -> list[object]:
    return [
        kind.worker_class,
        kind.model,
        kind.method,
        kind.kernels,
        kind.runs,
        kind.canaries,
        _percent(kind.memory_error),
        _percent(kind.time_error),
        time.strftime("%Y-%m-%d", time.localtime(kind.newest_at)),
    ]


def _pair(pair: MeasuredPlan) -> list[object]:
    return [
        pair.job,
        pair.worker_class,
        pair.model,
        pair.method,
        f"{pair.predicted_peak_bytes / GIB:.2f}",
        None if pair.measured_peak_bytes is None else f"{pair.measured_peak_bytes / GIB:.2f}",
        _percent(pair.peak_error),
        f"{pair.predicted_tokens_per_second:,.0f}",
        None if pair.measured_tokens_per_second is None else f"{pair.measured_tokens_per_second:,.0f}",
        _percent(pair.speed_error),
    ]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:+.0%}"
