"""Rows of the training file that are only measured on, where nobody gave a validation file."""

import hashlib
from collections.abc import Iterable
from heapq import heappush, heappushpop

from tunesmith.tuning.job import DatasetFacts, JobSpec

SHARE, MOST_ROWS = 10, 200  # one row in ten


def held_out_count(rows: int) -> int:
    """How many of so many rows are held out: a tenth, at most 200; none of fewer than ten."""
    return min(rows // SHARE, MOST_ROWS)


def with_held_out_rows(facts: DatasetFacts, spec: JobSpec) -> DatasetFacts:
    """The counts that are trained on once rows are held out, unless there is something else to measure on."""
    count = held_out_count(facts.rows)
    if spec.validation == "none" or facts.validation_rows or not count:
        return facts
    left = (facts.rows - count) / facts.rows
    return facts.model_copy(
        update={
            "rows": facts.rows - count,
            "tokens": max(1, round(facts.tokens * left)),
            "supervised_tokens": round(facts.supervised_tokens * left),
            "validation_rows": count,
            "held_out_rows": count,
        }
    )


def held_out_lines(lines: Iterable[bytes], *, count: int) -> tuple[int, ...]:
    """The numbers, from 1, of at most `count` rows to hold out: those whose SHA-256 is lowest.

    It depends on the rows alone, so every attempt on every machine holds out the same. Equal rows are never parted,
    because a row that is trained on says nothing as a measure; with many of them fewer are held out. Memory is bounded
    by `count`.
    """
    lowest: list[int] = []  # a heap of hashes, the highest first: negative
    lines_of: dict[int, list[int]] = {}
    for number, line in enumerate(lines, start=1):
        row = line.strip()
        if not row or not count:
            continue
        key = -int.from_bytes(hashlib.sha256(row).digest())
        if key in lines_of:
            lines_of[key] = [*lines_of[key], number][: count + 1]
        elif len(lowest) < count:
            heappush(lowest, key)
            lines_of[key] = [number]
        elif (highest := heappushpop(lowest, key)) != key:
            del lines_of[highest]
            lines_of[key] = [number]
    return _as_many_as_fit(lines_of, count)


def _as_many_as_fit(lines_of: dict[int, list[int]], count: int) -> tuple[int, ...]:
    chosen: list[int] = []
    for key in sorted(lines_of, reverse=True):
        if len(chosen) + len(lines_of[key]) <= count:
            chosen += lines_of[key]
    return tuple(sorted(chosen))
