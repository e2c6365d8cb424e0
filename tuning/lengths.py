"""How long the rows of a data set are, as counts in a few fixed buckets."""

from bisect import bisect_left
from collections.abc import Sequence

# Upper edges in tokens; one more bucket holds what is longer.
EDGES = (
    32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768,
    65536, 131072,
)  # fmt: skip
BUCKETS = len(EDGES) + 1


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
