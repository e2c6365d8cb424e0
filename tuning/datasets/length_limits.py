"""What each limit on a row's length would cut away, counted row by row."""

from typing import NamedTuple

from tunesmith.tuning.datasets.lengths import BUCKETS, bucket_of
from tunesmith.tuning.datasets.row_sizes import RowSize

LIMITS = (512, 1024, 2048, 4096, 8192, 16384)


class Cut(NamedTuple):
    """Rows longer than `limit` tokens, and the tokens of them behind it."""

    limit: int
    rows: int
    tokens: int


class LengthHistogram:
    """Rows by length, in the buckets of `tuning.datasets.lengths`, with what each of a few limits cuts."""

    def __init__(self) -> None:
        self.rows = self.tokens = self.supervised_tokens = self.longest = 0
        self.counts = [0] * BUCKETS
        self._rows_cut = dict.fromkeys(LIMITS, 0)
        self._tokens_cut = dict.fromkeys(LIMITS, 0)

    def add(self, size: RowSize) -> None:
        """Count one row."""
        self.rows += 1
        self.tokens += size.tokens
        self.supervised_tokens += size.supervised_tokens
        self.longest = max(self.longest, size.longest)
        self.counts[bucket_of(size.longest)] += 1
        for limit in LIMITS:
            if size.longest > limit:
                self._rows_cut[limit] += 1
                self._tokens_cut[limit] += size.longest - limit

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """One for each limit that cuts something, the smallest first."""
        return tuple(
            Cut(limit, self._rows_cut[limit], self._tokens_cut[limit]) for limit in LIMITS if self._rows_cut[limit]
        )
