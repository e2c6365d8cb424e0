"""What is left of a data set when rows longer than a limit lose what lies behind it."""

from tunesmith.tuning.datasets.lengths import typical_lengths
from tunesmith.tuning.job import DatasetFacts


def with_rows_cut(facts: DatasetFacts, *, length: int) -> DatasetFacts:
    """The counts of tokens after rows of more than `length` tokens were cut; the longest stays what it was.

    How many are left follows from the lengths that were counted; where none were, at most so many for each row.
    """
    if length >= facts.longest_row_tokens or not facts.tokens:
        return facts
    left = min(1.0, facts.rows * length / facts.tokens)
    if sum(facts.row_length_counts):
        left = min(left, sum(_lengths(facts, length)) / sum(_lengths(facts, facts.longest_row_tokens)))
    return facts.model_copy(
        update={
            "tokens": max(1, round(facts.tokens * left)),
            "supervised_tokens": max(1, round(facts.supervised_tokens * left)),
        }
    )


def _lengths(facts: DatasetFacts, longest: int) -> tuple[float, ...]:
    mean = facts.tokens / facts.rows
    return typical_lengths(facts.row_length_counts, mean_tokens=mean, longest_tokens=longest, rows=facts.rows)
