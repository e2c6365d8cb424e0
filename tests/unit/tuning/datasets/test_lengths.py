"""The histogram of row lengths, and what plans say from it."""

import json

import pytest

from tests.unit.tuning.cases import answer, data, plan, spec
from tunesmith.tuning.datasets.assumptions import assumed_dataset
from tunesmith.tuning.datasets.lengths import BUCKETS, EDGES, bucket_of, percentile_tokens, share_within
from tunesmith.tuning.datasets.rows import RowChecker
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Refusal
from tunesmith.tuning.recipe.hyperparameters import choose_sequence_length


def counts(*lengths: int) -> tuple[int, ...]:
    found = [0] * BUCKETS
    for length in lengths:
        found[bucket_of(length)] += 1
    return tuple(found)


def test_every_length_has_one_bucket_and_an_edge_belongs_to_the_one_below() -> None:
    assert [bucket_of(edge) for edge in EDGES] == list(range(len(EDGES)))
    assert bucket_of(EDGES[0] + 1) == 1
    assert bucket_of(10**9) == BUCKETS - 1


def test_the_percentile_is_an_edge_that_no_more_rows_than_promised_exceed() -> None:
    found = counts(*[100] * 98, 500, 5000)
    assert percentile_tokens(found, 0.98) == 128
    assert percentile_tokens(found, 0.99) == 512
    assert percentile_tokens(found, 1.0) == 6144
    assert percentile_tokens(counts(10**9), 0.5) is None
    assert percentile_tokens((), 0.99) is None


def test_the_share_of_rows_within_a_length() -> None:
    found = counts(*[100] * 98, 500, 5000)
    assert share_within(found, 512) == 0.99
    assert share_within((), 512) is None


def test_a_checked_file_knows_how_long_its_rows_are() -> None:
    checker = RowChecker()
    for words in (5, 5, 5, 4000):
        checker.feed(json.dumps({"text": "word " * words}).encode() + b"\n")
    facts = checker.finish().facts()
    assert sum(facts.row_length_counts) == 4
    assert facts.row_length_counts[0] == 3
    assert facts.row_length_counts[bucket_of(facts.longest_row_tokens)] == 1


def test_the_plan_says_how_long_most_rows_are_and_cuts_none() -> None:
    skewed = data(1000, tokens_per_row=120, longest=1500).model_copy(
        update={"row_length_counts": counts(*[100] * 995, *[1500] * 5)}
    )
    from tunesmith.tuning.models.catalogue import find_shape

    length, reason = choose_sequence_length(spec(), skewed, find_shape("llama-3.1-8b"))
    assert length == 1536
    assert reason.text == "Rows of up to 1,536 tokens: the longest has 1,500, 99% have at most 128."
    assert plan("llama-3.1-8b", "1xH100", dataset=skewed).max_sequence_length == 1536


def test_a_refusal_says_what_share_of_the_rows_a_length_that_fits_leaves_whole() -> None:
    skewed = data(1000, tokens_per_row=200, longest=100_000).model_copy(
        update={"row_length_counts": counts(*[200] * 990, *[100_000] * 10)}
    )
    refused = answer("llama-3.1-8b", "1xA10G", dataset=skewed)
    assert isinstance(refused, Refusal)
    assert refused.reasons[-1].rule == "what-would-fit"
    assert "99.0% of the rows are no longer than that." in refused.reasons[-1].text


@pytest.mark.parametrize(("rows", "longest"), [(1, 500), (3, 1500), (4, 2000), (5000, 2000)])
def test_of_rows_that_nobody_has_seen_the_longest_has_no_more_than_all(rows: int, longest: int) -> None:
    facts = assumed_dataset(find_shape("llama-3.1-8b"), rows=rows)
    assert facts.longest_row_tokens == longest <= facts.tokens
