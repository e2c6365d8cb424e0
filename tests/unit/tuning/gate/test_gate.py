"""A verdict is right as often as it says, and says what it does not know."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.tuning.gate.paired import Comparison, Pair, Sums, compare_measure
from tunesmith.tuning.gate.verdict import GateRule, judge

RULE = GateRule()


def by_loss(differences: Sequence[float], *, tokens: int = 10) -> list[Pair]:
    """Rows on which the candidate's loss a token is so much above the champion's, which is 2."""
    return [
        Pair(Sums(tokens, tokens * (2 + gap), correct=0), Sums(tokens, tokens * 2.0, correct=0)) for gap in differences
    ]


def by_hits(gained: int, lost: int, both: int, neither: int) -> list[Pair]:
    kinds = [(True, False)] * gained + [(False, True)] * lost + [(True, True)] * both + [(False, False)] * neither
    return [Pair(Sums(1, 0.0, 0, one), Sums(1, 0.0, 0, other)) for one, other in kinds]


def test_rows_of_equal_length_are_compared_by_the_paired_t_test() -> None:
    # Student's own data (1908, ten patients, hours of sleep): t = 4.0621 with 9 degrees of freedom, p = 0.00283.
    gaps = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    found = compare_measure("loss", by_loss(gaps), confidence=0.95)
    assert found.difference == pytest.approx(1.58)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert (found.low, found.high) == (pytest.approx(0.7001, abs=1e-4), pytest.approx(2.4599, abs=1e-4))


def test_the_difference_of_losses_is_that_of_their_means_over_tokens() -> None:
    pairs = [Pair(Sums(1, 3.0, 0), Sums(1, 1.0, 1)), Pair(Sums(9, 9.0, 9), Sums(9, 18.0, 0))]
    found = compare_measure("loss", pairs, confidence=0.95)
    assert (found.candidate, found.champion) == (pytest.approx(1.2), pytest.approx(1.9))
    assert compare_measure("token_accuracy", pairs, confidence=0.95).difference == pytest.approx(0.8)


def test_hits_have_the_interval_of_the_published_formula() -> None:
    # n 50, 12 gained, 3 lost: up 13/52, down 4/52, error sqrt((17/52 - (9/52)**2) / 52), by hand.
    found = compare_measure("score", by_hits(12, 3, 20, 15), confidence=0.95)
    assert found.difference == pytest.approx(0.18)
    assert (found.low, found.high) == (pytest.approx(0.0249, abs=1e-4), pytest.approx(0.3212, abs=1e-4))
    assert found.p_value == pytest.approx(0.03516, abs=1e-5)
    assert found.word == "better"


def covered(found: Comparison, truth: float) -> bool:
    return found.low <= truth <= found.high


@pytest.mark.parametrize("rows", [20, 60])
def test_the_interval_of_a_loss_covers_the_truth_as_often_as_it_says(rows: int) -> None:
    source, hits = random.Random(5), 0
    for _ in range(400):
        lengths = [source.randint(5, 40) for _ in range(rows)]
        pairs = []
        for length in lengths:
            noise = source.gauss(0, 1)
            pairs.append(Pair(Sums(length, length * (2.3 + noise), 0), Sums(length, length * 2.0, 0)))
        hits += covered(compare_measure("loss", pairs, confidence=0.9), 0.3)
    assert 0.85 <= hits / 400 <= 0.95


@pytest.mark.parametrize("rows", [20, 80])
def test_the_interval_of_a_share_covers_the_truth_as_often_as_it_says(rows: int) -> None:
    source, hits = random.Random(6), 0
    for _ in range(600):
        drawn = source.choices([(True, False), (False, True), (True, True)], weights=[0.2, 0.1, 0.7], k=rows)
        pairs = [Pair(Sums(1, 0.0, 0, one), Sums(1, 0.0, 0, other)) for one, other in drawn]
        hits += covered(compare_measure("score", pairs, confidence=0.9), 0.1)
    assert 0.87 <= hits / 600 <= 0.97


def test_equal_models_are_called_different_no_more_often_than_the_confidence_says() -> None:
    source = random.Random(7)
    words = [judge(by_loss([source.gauss(0, 1) for _ in range(30)]), rule=RULE).word for _ in range(400)]
    assert words.count("no difference") >= 0.92 * len(words)


@given(st.lists(st.floats(-3, 3), min_size=20, max_size=40))
def test_who_wins_one_way_loses_the_other(gaps: list[float]) -> None:
    pairs = by_loss(gaps)
    turned = [Pair(pair.champion, pair.candidate) for pair in pairs]
    opposite = {"better": "worse", "worse": "better", "no difference": "no difference"}
    assert judge(turned, rule=RULE).word == opposite[judge(pairs, rule=RULE).word]


@given(st.lists(st.floats(-1, 1), min_size=20, max_size=40), st.floats(0, 1))
def test_a_margin_never_makes_a_verdict_of_none(gaps: list[float], margin: float) -> None:
    plain = judge(by_loss(gaps), rule=RULE).word
    assert judge(by_loss(gaps), rule=GateRule(loss_margin=margin)).word in (plain, "no difference")


def test_a_gain_within_the_margin_does_not_count() -> None:
    pairs = by_loss([-0.2, -0.3] * 20)
    assert judge(pairs, rule=GateRule(loss_margin=0.1)).word == "better"
    assert judge(pairs, rule=GateRule(loss_margin=0.25)).word == "no difference"
    scored = by_hits(14, 1, 15, 10)
    assert judge(scored, rule=GateRule(share_margin=0.05)).word == "better"
    assert judge(scored, rule=GateRule(share_margin=0.3)).word == "no difference"


def test_two_rows_are_too_few_to_tell_and_it_says_how_many_it_needs() -> None:
    verdict = judge(by_loss([-1.0, -1.01]), rule=RULE)
    assert verdict.word == "too few rows to tell"
    assert verdict.text.startswith("Too few rows to tell (2; it needs about 20)")
    assert judge(by_loss([-1.0]), rule=RULE).word == "too few rows to tell"
    assert judge([], rule=RULE).word == "no verdict"


def test_no_difference_names_the_rows_that_would_show_one() -> None:
    source = random.Random(8)
    found = judge(by_loss([source.gauss(-0.1, 1) for _ in range(40)]), rule=RULE)
    assert found.word == "no difference"
    assert found.comparisons[0].rows_needed is not None
    assert f"About {found.comparisons[0].rows_needed:,} rows would show one" in found.text


def test_answers_decide_where_they_are_scored_unless_the_rule_says_otherwise() -> None:
    pairs = [Pair(Sums(10, 10.0 + index % 3, 5, hit=True), Sums(10, 20.0, 5, hit=index > 20)) for index in range(40)]
    assert judge(pairs, rule=RULE).decided_by == "score"
    assert judge(pairs, rule=GateRule(decide_by="loss")).decided_by == "loss"


def test_losses_of_other_tokens_are_not_compared() -> None:
    pairs = [Pair(Sums(10, 10.0, 5), Sums(12, 20.0, 5)) for _ in range(30)]
    verdict = judge(pairs, rule=RULE)
    assert verdict.word == "no verdict"
    assert "tokenizers" in verdict.text


def test_a_guard_rail_outweighs_a_gain() -> None:
    better = by_loss([-1.0, -0.9] * 15)
    worse, few = by_loss([0.5, 0.6] * 15), by_loss([0.0, 0.1])
    assert judge(better, rule=RULE, guards={"old": better}).word == "better"
    broken = judge(better, rule=RULE, guards={"old": worse})
    assert (broken.word, broken.guards[0].holds) == ("worse", False)
    assert "worse on guard rail old" in broken.text
    unproven = judge(better, rule=RULE, guards={"old": few})
    assert unproven.word == "too few rows to tell"
    assert judge(by_loss([1.0, 0.9] * 15), rule=RULE, guards={"old": few}).word == "worse"
