"""Two models on the same rows: the difference of a measure, the interval that it lies in, and whether it is a gain."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tunesmith.tuning.gate.distributions import normal_quantile, sign_test, t_probability, t_quantile
from tunesmith.tuning.values.base import Value

FEWEST_ROWS = 20  # below it neither the scatter of losses nor a share of hits is known well enough
_POWER = 0.8  # with which a difference of the size that was seen should be found by as many rows as are asked for

Measure = Literal["loss", "token_accuracy", "score"]
Word = Literal["better", "worse", "no difference", "too few rows to tell", "no verdict"]


class Sums(NamedTuple):
    """One row under one model: `loss` in nats and `correct` tokens are sums over its `tokens`; `hit` if scored."""

    tokens: int
    loss: float
    correct: int
    hit: bool | None = None


@dataclass(frozen=True)
class Pair:
    """One row under both."""

    candidate: Sums
    champion: Sums


class Comparison(Value):
    """One measure of the candidate beside the champion's. A difference is the candidate's less the champion's."""

    measure: Measure
    """`loss` in nats a token, `token_accuracy` and `score` as shares from 0 to 1."""
    rows: int
    """Rows that both were measured on."""
    candidate: float
    """The candidate's value."""
    champion: float
    """The champion's."""
    difference: float
    """Candidate less champion: of a loss less is better, of the others more."""
    low: float | None
    """The lower end of the interval that the difference lies in, at the confidence of the rule; null of one row."""
    high: float | None
    """The upper end of that interval; null of one row."""
    p_value: float
    """How likely chance alone would make a difference as large; of hits by McNemar's exact test."""
    margin: float = 0.0
    """The difference must be more than this to count."""
    word: Word
    """What it comes to."""
    rows_needed: int | None = None
    """About how many rows would show a difference of this size; null where there is none."""


def compare_measure(measure: Measure, pairs: Sequence[Pair], *, confidence: float, margin: float = 0.0) -> Comparison:
    """The candidate beside the champion on every row of `pairs`, of which there is at least one.

    Loss and token accuracy are means over tokens, so long rows weigh more: their difference is a ratio of sums over
    rows, and its error that of a ratio estimator (Cochran, Sampling Techniques, 3rd ed. 1977, equation 6.13), by
    Student's t with a degree of freedom less than rows. Where rows are equally long it is the paired t test. Shares of
    hits have the interval of Bonett and Price (2012) for paired proportions, whose coverage holds for few rows.
    """
    found = _of_hits(pairs, confidence) if measure == "score" else _of_tokens(measure, pairs, confidence)
    effect = max(abs(found.difference), margin)
    needed = _rows_needed(len(pairs), found.error, effect, confidence=confidence) if effect else None
    return Comparison(
        measure=measure,
        rows=len(pairs),
        candidate=found.candidate,
        champion=found.champion,
        difference=found.difference,
        low=found.low if math.isfinite(found.low) else None,
        high=found.high if math.isfinite(found.high) else None,
        p_value=found.p_value,
        margin=margin,
        word=_word(measure, len(pairs), found, confidence=confidence, margin=margin),
        rows_needed=max(FEWEST_ROWS, needed) if needed else (FEWEST_ROWS if len(pairs) < FEWEST_ROWS else None),
    )


class _Found(NamedTuple):
    candidate: float
    champion: float
    low: float
    high: float
    error: float
    p_value: float

    @property
    def difference(self) -> float:
        return self.candidate - self.champion


def _of_tokens(measure: Measure, pairs: Sequence[Pair], confidence: float) -> _Found:
    tokens = [pair.candidate.tokens for pair in pairs]
    values = [(_amount(measure, pair.candidate), _amount(measure, pair.champion)) for pair in pairs]
    whole, number = sum(tokens), len(pairs)
    candidate, champion = (math.fsum(value[side] for value in values) / whole for side in (0, 1))
    gap = candidate - champion
    residuals = [(one - other) - gap * length for (one, other), length in zip(values, tokens, strict=True)]
    if number == 1:
        return _Found(candidate, champion, -math.inf, math.inf, abs(gap), 1.0)
    error = math.sqrt(number / (number - 1) * math.fsum(value * value for value in residuals)) / whole
    reach = t_quantile((1 + confidence) / 2, degrees=number - 1) * error
    p_value = 2 * t_probability(-abs(gap) / error, degrees=number - 1) if error else float(gap == 0)
    return _Found(candidate, champion, gap - reach, gap + reach, error, p_value)


def _amount(measure: Measure, sums: Sums) -> float:
    return sums.loss if measure == "loss" else float(sums.correct)


def _of_hits(pairs: Sequence[Pair], confidence: float) -> _Found:
    """Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", Journal of Educational and Behavioral Statistics 37(4), 2012: a row is added to each kind of change.
    """
    number = len(pairs)
    gained = sum(bool(pair.candidate.hit) and not pair.champion.hit for pair in pairs)
    lost = sum(bool(pair.champion.hit) and not pair.candidate.hit for pair in pairs)
    up, down = (gained + 1) / (number + 2), (lost + 1) / (number + 2)
    error = math.sqrt((up + down - (up - down) ** 2) / (number + 2))
    reach = normal_quantile((1 + confidence) / 2) * error
    candidate, champion = (
        sum(bool(sums.hit) for sums in side) / number
        for side in ([pair.candidate for pair in pairs], [pair.champion for pair in pairs])
    )
    low, high = max(-1.0, up - down - reach), min(1.0, up - down + reach)
    return _Found(candidate, champion, low, high, error, sign_test(gained, lost))


def _word(measure: Measure, rows: int, found: _Found, *, confidence: float, margin: float) -> Word:
    """Better or worse only where the whole interval lies beyond the margin, and of hits the exact test agrees."""
    if rows < FEWEST_ROWS:
        return "too few rows to tell"
    if measure == "score" and found.p_value > 1 - confidence:
        return "no difference"
    is_lower, is_higher = found.high < -margin, found.low > margin
    if measure == "loss":
        is_lower, is_higher = is_higher, is_lower
    return "better" if is_higher else "worse" if is_lower else "no difference"


def _rows_needed(rows: int, error: float, effect: float, *, confidence: float) -> int:
    """So that a difference of this size is found four times in five: the error falls with the root of the rows."""
    wanted = effect / (normal_quantile((1 + confidence) / 2) + normal_quantile(_POWER))
    return math.ceil(min(1e9, rows * (error / wanted) ** 2))
