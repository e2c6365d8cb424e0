"""How right predictions were, as tables: each finished run, and what the newest of each kind come to."""

import time

from tunesmith.cli import output
from tunesmith.tuning.json_objects import Json
from tunesmith.tuning.units import GIB


def show_accuracy(answer: Json) -> None:
    """A line for each finished run, then one for each kind of run with its current errors."""
    pairs, kinds = answer["data"], answer.get("kinds", [])
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
    for name, key in (("peak memory", "peak_error"), ("speed", "speed_error")):
        if errors := sorted(abs(pair[key]) for pair in pairs if pair[key] is not None):
            output.note(f"{name}: median error {errors[len(errors) // 2]:.0%}, largest {errors[-1]:.0%}")


def _kind(kind: Json) -> list[object]:
    return [
        kind["worker_class"],
        kind["model"],
        kind["method"],
        kind["kernels"],
        kind["runs"],
        kind["canaries"],
        _percent(kind["memory_error"]),
        _percent(kind["time_error"]),
        time.strftime("%Y-%m-%d", time.localtime(kind["newest_at"])),
    ]


def _pair(pair: Json) -> list[object]:
    return [
        pair["job"],
        pair["worker_class"],
        pair["model"],
        pair["method"],
        f"{pair['predicted_peak_bytes'] / GIB:.2f}",
        None if pair["measured_peak_bytes"] is None else f"{pair['measured_peak_bytes'] / GIB:.2f}",
        _percent(pair["peak_error"]),
        f"{pair['predicted_tokens_per_second']:,.0f}",
        None if pair["measured_tokens_per_second"] is None else f"{pair['measured_tokens_per_second']:,.0f}",
        _percent(pair["speed_error"]),
    ]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:+.0%}"
