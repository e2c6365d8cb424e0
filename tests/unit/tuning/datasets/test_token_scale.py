"""Estimates corrected by what a tokenizer counted of some rows."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tuning.cases import data, spec
from tunesmith.tuning.datasets.rows import RowReport
from tunesmith.tuning.datasets.token_scale import TokenCounts, TokenScale
from tunesmith.tuning.recipe.hyperparameters import choose_batch
from tunesmith.tuning.words import Method

SAMPLE = RowReport(format=None, rows=50, characters=0, tokens=1000, longest_row_tokens=40, supervised_tokens=100)
COUNTS = TokenCounts(rows=50, tokens=1200, longest=60, supervised_tokens=250)
SCALE = TokenScale.of(COUNTS, estimated=SAMPLE)


def test_a_sample_stands_for_all_rows() -> None:
    facts = SCALE.applied(data(2_000, tokens_per_row=20, longest=90, supervised=0.1))
    assert (facts.tokens, facts.supervised_tokens) == (48_000, 10_000)
    assert facts.longest_row_tokens == 135
    assert facts.measured_rows == 50


@given(st.integers(1, 10**9), st.integers(1, 10**6), st.floats(0.01, 100))
def test_no_more_is_learnt_than_there_is(rows: int, tokens_per_row: int, ratio: float) -> None:
    scale = TokenScale(rows=10, tokens=1.0, longest=1.0, supervised_tokens=ratio)
    facts = scale.applied(data(rows, tokens_per_row=tokens_per_row))
    assert 1 <= facts.supervised_tokens <= facts.tokens


@given(st.lists(st.integers(0, 50), min_size=23, max_size=23), st.floats(0.1, 10))
def test_no_row_is_lost_between_the_lengths(counts: list[int], ratio: float) -> None:
    facts = data().model_copy(update={"row_length_counts": tuple(counts)})
    scale = TokenScale(rows=1, tokens=ratio, longest=1, supervised_tokens=1)
    assert sum(scale.applied(facts).row_length_counts) == sum(counts)


def test_the_plan_says_how_sure_its_tokens_are() -> None:
    guess = data(2_000).model_copy(update={"tokens_are_exact": False})
    told = {
        name: choose_batch(spec(), facts, method=Method.LORA).reasons[0].text
        for name, facts in {"guess": guess, "measured": SCALE.applied(guess)}.items()
    }
    assert "estimated from bytes" in told["guess"]
    assert "measured with the model's tokenizer on 50 of 2,000 rows" in told["measured"]
