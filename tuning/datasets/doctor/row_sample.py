"""A few hundred rows of a file, by which two files can be compared that were each read once.

Of every file those with the smallest hashes are kept, so that of two files the same rows are: a row of one that would
be in the other's sample is there, or is not in the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappush, heapreplace

MOST_SAMPLED = 256


class RowSample:
    """The smallest different hashes of the rows it is shown."""

    def __init__(self) -> None:
        self._largest_first: list[int] = []  # negated, as a heap
        self._kept: set[int] = set()

    def add(self, value: int) -> None:
        """Take a row's hash."""
        is_full = len(self._kept) == MOST_SAMPLED
        if value in self._kept or (is_full and value > -self._largest_first[0]):
            return
        self._kept.add(value)
        if is_full:
            self._kept.discard(-heapreplace(self._largest_first, -value))
        else:
            heappush(self._largest_first, -value)

    @property
    def hashes(self) -> tuple[str, ...]:
        """In hexadecimal, the smallest first."""
        return tuple(f"{value:016x}" for value in sorted(self._kept))


@dataclass(frozen=True)
class Overlap:
    """How many of the different rows of one file that were compared are in another file too."""

    compared: int
    shared: int
    is_exact: bool  # all rows were compared


def overlap(sample: Sequence[str], *, other: Sequence[str]) -> Overlap:
    """Of the first file's rows, how many the other one has, by the samples of both."""
    is_whole = len(other) < MOST_SAMPLED
    comparable = [value for value in sample if is_whole or value <= other[-1]]
    shared = len(set(comparable).intersection(other))
    return Overlap(len(comparable), shared, is_exact=is_whole and len(sample) < MOST_SAMPLED)
