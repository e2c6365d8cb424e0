"""How long the rows of a data set are, as counts in a few fixed buckets."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate
from statistics import NormalDist

# Upper edges in tokens; one more bucket holds what is longer.
EDGES = (
    32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768,
    65536, 131072,
)  # fmt: skip
BUCKETS = len(EDGES) + 1
TYPICAL_ROWS = 128
_SHARES = tuple((index + 0.5) / TYPICAL_ROWS for index in range(TYPICAL_ROWS))
_MOST_ROWS = 10**12  # with more a share of all but half a row is rounded to all


def bucket_of(tokens: int) -> int:
    """Which count a row of so many tokens belongs to."""
    return bisect_left(EDGES, tokens)


def percentile_tokens(counts: Sequence[int], share: float) -> int | None:
    """The smallest edge that at least `share` of the rows do not exceed; None when nothing was counted or none does."""
    wanted, seen = share * sum(counts), 0
    for edge, count in zip(EDGES, counts, strict=False):
        seen += count
        if seen and seen >= wanted:
            return edge
    return None


def share_within(counts: Sequence[int], tokens: int) -> float | None:
    """At least this share of the rows has at most so many tokens; None when nothing was counted."""
    total = sum(counts)
    if not total:
        return None
    return sum(count for edge, count in zip(EDGES, counts, strict=False) if edge <= tokens) / total


@lru_cache(maxsize=256)
def typical_lengths(
    counts: tuple[int, ...], *, mean_tokens: float, longest_tokens: int, rows: int
) -> tuple[float, ...]:
    """A few lengths that stand for all, evenly spaced through those of the data, the shortest first.

    From the counts where there are any; else as chat data is, lognormal, with this mean and so long a tail that of
    `rows` rows the longest is what it is.
    """
    lengths = _counted(counts) if sum(counts) else _lognormal(mean_tokens, longest_tokens, rows)
    return tuple(min(length, float(longest_tokens)) for length in lengths)


def _counted(counts: Sequence[int]) -> list[float]:
    edges = (0, *EDGES, 2 * EDGES[-1])
    reached = [0, *accumulate(counts)]
    lengths = []
    for share in _SHARES:
        wanted = share * reached[-1]
        bucket = bisect_left(reached, wanted) - 1
        within = (wanted - reached[bucket]) / counts[bucket]
        lengths.append(edges[bucket] + within * (edges[bucket + 1] - edges[bucket]))
    return lengths


def _lognormal(mean: float, longest: float, rows: int) -> list[float]:
    """Of a lognormal length the mean is exp(m + s^2 / 2), and a share p of all rows stays below exp(m + s z(p))."""
    normal = NormalDist()
    tail = normal.inv_cdf(1 - 0.5 / min(max(rows, 2), _MOST_ROWS))
    spread = tail - math.sqrt(max(0.0, tail**2 - 2 * math.log(max(longest / mean, 1.0))))
    middle = math.log(mean) - spread**2 / 2
    return [math.exp(middle + spread * deviation) for deviation in _typical_deviations()]


@cache
def _typical_deviations() -> tuple[float, ...]:
    """From the mean of a normal distribution, of `TYPICAL_ROWS` evenly spaced through it."""
    return tuple(NormalDist().inv_cdf(share) for share in _SHARES)
