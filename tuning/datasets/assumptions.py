"""A data set that nobody has seen yet, for planning before there is a file."""

from tunesmith.tuning.job import DatasetFacts
from tunesmith.tuning.models.shape import ModelShape

ROWS = 2_000
TOKENS_PER_ROW = 500


def assumed_dataset(
    shape: ModelShape, *, rows: int = ROWS, tokens_per_row: int | None = None, longest_row_tokens: int | None = None
) -> DatasetFacts:
    """Rows of 500 tokens unless told otherwise, the longest four times the mean, half of the tokens trained on.

    Of very few rows the longest has no more than all of them together.
    """
    mean = min(tokens_per_row or TOKENS_PER_ROW, shape.context_length, longest_row_tokens or shape.context_length)
    return DatasetFacts(
        rows=rows,
        tokens=rows * mean,
        longest_row_tokens=min(longest_row_tokens or min(4, rows) * mean, shape.context_length),
        supervised_tokens=max(1, rows * mean // 2),
        tokens_are_exact=True,
    )


def explain_assumptions(assumed: DatasetFacts, *, tokens_per_row: int | None = None) -> str:
    """What nobody said of the rows; and that some were said to be longer than can be trained on."""
    mean = assumed.tokens // assumed.rows
    left = f" ({tokens_per_row:,} are cut to that)" if tokens_per_row and tokens_per_row > mean else ""
    length = "1 token" if mean == 1 else f"{mean:,} tokens"
    return f"Assumed: {length} a row{left}, half of them to learn, the longest row {assumed.longest_row_tokens:,}."
