"""Metric points: merging what attempts shipped, thinning them to events, and the result file."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from pydantic_core import from_json, to_json

Point = dict[str, Any]

_EVENTS_PER_JOB = 50
_AT_ONCE = 1000
_RESULT_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}


def merge(points: Iterable[tuple[int, Point]]) -> list[Point]:
    """One point per step, in order of steps, from (epoch, point) in order of writing: the newest attempt wins a step.

    Several points of one attempt about one step, such as training and validation, become one.
    """
    by_step: dict[int, tuple[int, Point]] = {}
    for epoch, point in points:
        step = int(point["step"])
        known_epoch, known = by_step.get(step, (0, {}))
        by_step[step] = (epoch, _merged(known, point) if epoch == known_epoch else point)
    return [by_step[step][1] for step in sorted(by_step)]


def list_of_points(chunks: Iterable[tuple[int, str]], *, after_step: int) -> bytes:
    """The answer that lists the merged points behind `after_step`, as JSON, from (epoch, JSON) in order of writing.

    Written some at a time, for whoever else computes in this process: writing JSON lets nobody in between.
    """
    points = merge((epoch, point) for epoch, text in chunks for point in from_json(text))
    wanted = [point for point in points if point["step"] > after_step]
    parts = (to_json(wanted[first : first + _AT_ONCE])[1:-1] for first in range(0, len(wanted), _AT_ONCE))
    return b'{"object":"list","data":[' + b",".join(parts) + b"]}"


def _merged(known: Point, point: Point) -> Point:
    """Null says that something was not measured, not that an earlier measurement is void."""
    return {**known, **{name: value for name, value in point.items() if value is not None or name not in known}}


def worth_an_event(point: Point, *, total_steps: int | None, after_step: int) -> bool:
    """About fifty per job, plus every point with a validation loss; a step up to `after_step` was told already."""
    step = int(point["step"])
    if step <= after_step:
        return False
    interval = max(1, (total_steps or _EVENTS_PER_JOB) // _EVENTS_PER_JOB)
    return point.get("valid_loss") is not None or step == 1 or step % interval == 0 or step == total_steps


def event_message(point: Point, *, total_steps: int | None) -> str:
    """`Step 10/96: training loss=1.23, validation loss=1.31`."""
    of_total = f"/{total_steps}" if total_steps else ""
    losses = {"training loss": point.get("train_loss"), "validation loss": point.get("valid_loss")}
    told = ", ".join(f"{name}={value:.4f}" for name, value in losses.items() if value is not None)
    return f"Step {int(point['step'])}{of_total}: {told or 'no loss reported'}"


def result_csv(points: Iterable[Point]) -> bytes:
    """The API's result file: one row per step, empty where nothing was measured."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_RESULT_COLUMNS)
    for point in points:
        values = [point.get(name) for name in _RESULT_COLUMNS.values()]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue().encode()
