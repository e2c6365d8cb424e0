"""How the rows of an optimizer step are shared out among processes, and how evenly that comes out.

The trainer shares out its steps by `share_out`, and the planner predicts by the same function on rows of the lengths
that the data has: a step lasts as long as the process that has most to do.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from heapq import heapreplace

SIMULATED_ROWS = 512  # more change the result by less than rows of one data set differ from those of another


def share_out(work: Sequence[float], *, processes: int) -> list[list[int]]:
    """Positions in `work` for each process: the heaviest first, each to whoever has least to do.

    At most 4/3 of the best there is (Graham, "Bounds on Multiprocessing Timing Anomalies", 1969); of equals the first.
    """
    if processes == 1:
        return [list(range(len(work)))]
    shares: list[list[int]] = [[] for _ in range(processes)]
    loads = [(0.0, process) for process in range(processes)]
    for position in sorted(range(len(work)), key=lambda position: (-work[position], position)):
        load, lightest = loads[0]
        shares[lightest].append(position)
        heapreplace(loads, (load + work[position], lightest))
    return shares


def evenness(steps: Sequence[Sequence[float]], *, processes: int) -> float:
    """Work over what the processes could have done in that time, from 0 to 1; `steps` holds the work of rows."""
    longest = 0.0
    for work in steps:
        longest += _longest_share(work, processes=processes)
    return sum(map(sum, steps)) / (processes * longest) if longest else 1.0


def expected_evenness(lengths: tuple[float, ...], *, squared_share: float, rows_per_step: int, processes: int) -> float:
    """`evenness` of steps that are drawn, in a fixed random order, from rows of such lengths.

    `squared_share` is what a squared token costs beside a token: attention grows with the square of a row. Without
    lengths nothing is known against sharing out evenly.
    """
    return drawn_steps(lengths, squared_share, rows_per_step).evenness(processes)


class DrawnSteps:
    """The work of rows in drawn steps, the heaviest of each first: the same for every number of processes."""

    def __init__(self, steps: list[list[float]]) -> None:
        self._steps = [sorted(step, reverse=True) for step in steps]
        self._whole = sum(map(sum, steps))
        self._heaviest = sum(step[0] for step in self._steps)
        self._found: dict[int, float] = {}

    def evenness(self, processes: int) -> float:
        """Work over what the processes could have done in that time."""
        if processes == 1 or not self._whole:
            return 1.0
        found = self._found.get(processes)
        if found is None:
            longest = 0.0
            for heaviest_first in self._steps:
                longest += _longest_of_sorted(heaviest_first, processes=processes)
            found = self._found[processes] = self._whole / (processes * longest)
        return found

    def most_evenness(self, processes: int) -> float:
        """No way of sharing out is more even: in each step some process has the heaviest row."""
        return min(1.0, self._whole / (processes * self._heaviest)) if self._heaviest else 1.0


@lru_cache(maxsize=64)
def drawn_steps(lengths: tuple[float, ...], squared_share: float, rows_per_step: int) -> DrawnSteps:
    """Of some five hundred rows of such lengths; of none where no lengths are known."""
    if not lengths:
        return DrawnSteps([])
    rows = max(1, SIMULATED_ROWS // rows_per_step) * rows_per_step
    work = [length + squared_share * length**2 for length in lengths]
    drawn = [work[index * len(work) // rows] for index in _random_order(rows)]
    steps = [drawn[start : start + rows_per_step] for start in range(0, rows, rows_per_step)]
    return DrawnSteps(steps)


def _longest_share(work: Sequence[float], *, processes: int) -> float:
    """Of the shares that `share_out` makes, without making them."""
    return _longest_of_sorted(sorted(work, reverse=True), processes=processes)


def _longest_of_sorted(heaviest_first: Sequence[float], *, processes: int) -> float:
    if len(heaviest_first) <= processes:
        return heaviest_first[0] if heaviest_first else 0.0
    loads = list(heaviest_first[processes - 1 :: -1])  # one row each: from light to heavy they are a heap
    for load in heaviest_first[processes:]:
        heapreplace(loads, loads[0] + load)
    return max(loads)


@lru_cache(maxsize=64)
def _random_order(number: int) -> tuple[int, ...]:
    """Always the same."""
    order = list(range(number))
    random.Random(0).shuffle(order)  # noqa: S311 - an order, not a secret
    return tuple(order)
