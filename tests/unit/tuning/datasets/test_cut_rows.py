"""What is left of rows that are cut, by the lengths that were counted."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.tuning.datasets.cut_rows import with_rows_cut
from tunesmith.tuning.datasets.lengths import BUCKETS, bucket_of
from tunesmith.tuning.job import DatasetFacts


def facts(lengths: list[int], *, counted: bool) -> DatasetFacts:
    counts = [0] * BUCKETS
    for length in lengths:
        counts[bucket_of(length)] += 1
    tokens = sum(lengths)
    return DatasetFacts(
        rows=len(lengths),
        tokens=tokens,
        longest_row_tokens=max(lengths),
        supervised_tokens=tokens // 2 or 1,
        row_length_counts=tuple(counts) if counted else (),
    )


@pytest.mark.parametrize("limit", [300, 1_000, 5_000])
def test_what_is_left_is_near_what_cutting_row_by_row_leaves(limit: int) -> None:
    draw = random.Random(3)
    lengths = [int(draw.lognormvariate(6, 1.2)) + 1 for _ in range(5_000)]
    left = sum(min(length, limit) for length in lengths)
    counted = with_rows_cut(facts(lengths, counted=True), length=limit)
    assert counted.tokens == pytest.approx(left, rel=0.1)
    uncounted = facts(lengths, counted=False)
    assert with_rows_cut(uncounted, length=limit).tokens == min(uncounted.tokens, 5_000 * limit)


@given(
    lengths=st.lists(st.integers(1, 200_000), min_size=1, max_size=50),
    limit=st.integers(1, 250_000),
    counted=st.booleans(),
)
def test_cutting_takes_tokens_away_and_leaves_no_row_longer(lengths: list[int], limit: int, counted: bool) -> None:
    given_facts = facts(lengths, counted=counted)
    cut = with_rows_cut(given_facts, length=limit)
    assert 1 <= cut.tokens <= given_facts.tokens
    assert 1 <= cut.supervised_tokens <= given_facts.supervised_tokens
    assert cut.tokens <= max(1, len(lengths) * limit)
    assert (cut.rows, cut.longest_row_tokens) == (given_facts.rows, given_facts.longest_row_tokens)
    if limit >= max(lengths):
        assert cut == given_facts
