"""How far tokens estimated from bytes are from those that a model's own tokenizer counts on a sample of the rows."""

from pydantic import Field

from tunesmith.tuning.datasets.lengths import BUCKETS, EDGES, bucket_of
from tunesmith.tuning.datasets.rows import RowReport
from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.values.base import Value


class TokenCounts(Value):
    """What a tokenizer counted of some rows; `longest` is one sequence, of a pair the longer one."""

    rows: int = Field(gt=0)
    tokens: int = Field(gt=0)
    longest: int = Field(gt=0)
    supervised_tokens: int = Field(gt=0)


class TokenScale(Value):
    """Counted over estimated, on so many rows."""

    rows: int
    tokens: float = Field(gt=0, allow_inf_nan=False)
    longest: float = Field(gt=0, allow_inf_nan=False)
    supervised_tokens: float = Field(gt=0, allow_inf_nan=False)

    @classmethod
    def of(cls, counted: TokenCounts, *, estimated: RowReport) -> "TokenScale":
        """From both counts of the same rows."""
        return cls(
            rows=counted.rows,
            tokens=counted.tokens / max(1, estimated.tokens),
            longest=counted.longest / max(1, estimated.longest_row_tokens),
            supervised_tokens=counted.supervised_tokens / max(1, estimated.supervised_tokens),
        )

    def applied(self, facts: DatasetFacts) -> DatasetFacts:
        """The facts as the tokenizer would count them, as far as the sample stands for all rows.

        The longest row grows by the larger of two ratios: no row is cut because the sample had none like it.
        """
        tokens = max(1, round(facts.tokens * self.tokens))
        longest = max(self.longest, self.tokens) if facts.rows > self.rows else self.longest
        return facts.model_copy(
            update={
                "tokens": tokens,
                "longest_row_tokens": max(1, round(facts.longest_row_tokens * longest)),
                "supervised_tokens": min(tokens, max(1, round(facts.supervised_tokens * self.supervised_tokens))),
                "row_length_counts": self._moved(facts.row_length_counts),
                "measured_rows": min(self.rows, facts.rows),
            }
        )

    def _moved(self, counts: tuple[int, ...]) -> tuple[int, ...]:
        """Rows by length, each bucket where its middle goes."""
        moved = [0] * BUCKETS
        edges = (0, *EDGES, 2 * EDGES[-1])
        for index, count in enumerate(counts):
            moved[bucket_of(round((edges[index] + edges[index + 1]) / 2 * self.tokens))] += count
        return tuple(moved) if counts else ()
