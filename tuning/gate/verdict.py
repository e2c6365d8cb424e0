"""The gate: what a comparison and its guard rails come to, with every number that it was decided by."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from tunesmith.tuning.gate.paired import FEWEST_ROWS, Comparison, Measure, Pair, Word, compare_measure
from tunesmith.tuning.values.base import Value

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class GateRule(Value):
    """When a candidate counts as better."""

    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """How sure a difference must be: intervals are two-sided at this confidence."""
    decide_by: Literal["auto", "loss", "token_accuracy", "score"] = "auto"
    """The measure that decides: `auto` is the score where answers are scored, else the loss."""
    loss_margin: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    """By how many nats a token the loss must be lower, beyond doubt."""
    share_margin: Share = 0.0
    """By how much the score or the token accuracy must be higher, beyond doubt."""


class Guard(Value):
    """What a guard rail says: on its rows the candidate must not be shown to be worse."""

    name: str
    """What the rows are called."""
    holds: bool
    """Whether the candidate is not shown to be worse, on rows enough to tell."""
    comparison: Comparison
    """Its numbers."""


class Verdict(Value):
    """The gate's word on a candidate, with what it rests on."""

    word: Word
    """`better`, `worse`, `no difference`, `too few rows to tell` or `no verdict`."""
    text: str
    """The same in a sentence, with the numbers."""
    decided_by: Measure | None = None
    """The measure that decided; null without a verdict."""
    confidence: float
    """How sure it is."""
    comparisons: tuple[Comparison, ...] = ()
    """Every measure."""
    guards: tuple[Guard, ...] = ()
    """What the guard rails say."""


def judge(pairs: Sequence[Pair], *, rule: GateRule, guards: Mapping[str, Sequence[Pair]] | None = None) -> Verdict:
    """Candidate against champion on the same rows, and on the rows of each guard rail."""
    if not pairs:
        return no_verdict("There are no rows that both models were measured on.", rule=rule)
    found = _all_measures(pairs, rule)
    measure = _deciding(rule, found)
    if measure is None:
        return no_verdict(_why_none(rule, pairs), rule=rule)
    rails = tuple(_guard(name, rows, measure, rule) for name, rows in (guards or {}).items() if rows)
    word, text = _decided(found[measure], rails, rule)
    return Verdict(
        word=word,
        text=text,
        decided_by=measure,
        confidence=rule.confidence,
        comparisons=tuple(found.values()),
        guards=rails,
    )


def no_verdict(reason: str, *, rule: GateRule) -> Verdict:
    """Nothing can be said, and why."""
    return Verdict(word="no verdict", text=reason, confidence=rule.confidence)


def _all_measures(pairs: Sequence[Pair], rule: GateRule) -> dict[Measure, Comparison]:
    found: dict[Measure, Comparison] = {}
    if _same_tokens(pairs):
        found["loss"] = _one("loss", pairs, rule)
        found["token_accuracy"] = _one("token_accuracy", pairs, rule)
    if _is_scored(pairs):
        found["score"] = _one("score", pairs, rule)
    return found


def _one(measure: Measure, pairs: Sequence[Pair], rule: GateRule) -> Comparison:
    margin = rule.loss_margin if measure == "loss" else rule.share_margin
    return compare_measure(measure, pairs, confidence=rule.confidence, margin=margin)


def _same_tokens(pairs: Sequence[Pair]) -> bool:
    """Losses of other tokens cannot be compared: a tokenizer that cuts coarser has fewer, each harder to guess."""
    return all(pair.candidate.tokens == pair.champion.tokens for pair in pairs)


def _is_scored(pairs: Sequence[Pair]) -> bool:
    return all(pair.candidate.hit is not None and pair.champion.hit is not None for pair in pairs)


def _deciding(rule: GateRule, found: Mapping[Measure, Comparison]) -> Measure | None:
    if rule.decide_by != "auto":
        return rule.decide_by if rule.decide_by in found else None
    return next((measure for measure in ("score", "loss") if measure in found), None)


def _why_none(rule: GateRule, pairs: Sequence[Pair]) -> str:
    if not _same_tokens(pairs):
        return "The models' tokenizers cut the rows into other tokens, so their losses cannot be compared: use a score."
    return f"The rule decides by {rule.decide_by}, which was not measured."


def _guard(name: str, pairs: Sequence[Pair], measure: Measure, rule: GateRule) -> Guard:
    """By the same measure where its rows have it, else by the loss."""
    by: Measure = measure if measure != "score" or _is_scored(pairs) else "loss"
    found = _one(by, pairs, rule)
    return Guard(name=name, holds=found.word in ("better", "no difference"), comparison=found)


def _decided(main: Comparison, guards: Sequence[Guard], rule: GateRule) -> tuple[Word, str]:
    """A guard rail that breaks outweighs everything, one with too few rows leaves a gain unproven."""
    said = _sentence(main, rule)
    broken = [guard for guard in guards if guard.comparison.word == "worse"]
    if broken:
        return "worse", f"{said} But it is worse on guard rail {broken[0].name}: {_numbers(broken[0].comparison)}."
    short = [guard for guard in guards if guard.comparison.word == "too few rows to tell"]
    if short and main.word in ("better", "no difference"):
        return short[0].comparison.word, f"{said} Guard rail {short[0].name} has {_too_few(short[0].comparison)}."
    return main.word, said


def _sentence(found: Comparison, rule: GateRule) -> str:
    if found.word == "too few rows to tell":
        return f"{_too_few(found).capitalize()}: {_numbers(found)}."
    said = {"better": "Better", "worse": "Worse"}.get(found.word, "No difference beyond chance")
    more = f" About {found.rows_needed:,} rows would show one of this size." if _is_open(found) else ""
    return f"{said} at {rule.confidence:.0%} confidence: {_numbers(found)}.{more}"


def _is_open(found: Comparison) -> bool:
    return found.word == "no difference" and found.rows_needed is not None and found.rows_needed > found.rows


def _too_few(found: Comparison) -> str:
    return f"too few rows to tell ({found.rows}; it needs about {max(FEWEST_ROWS, found.rows_needed or 0):,})"


def _numbers(found: Comparison) -> str:
    margin = f", margin {_amount(found.margin, found.measure)}" if found.margin else ""
    interval = "unbounded"
    if found.low is not None and found.high is not None:
        interval = f"{_signed(found.low, found.measure)} to {_signed(found.high, found.measure)}"
    return (
        f"{found.measure.replace('_', ' ')} {_amount(found.champion, found.measure)} -> "
        f"{_amount(found.candidate, found.measure)} on {found.rows:,} rows, difference "
        f"{_signed(found.difference, found.measure)} ({interval}{margin})"
    )


def _amount(value: float, measure: Measure) -> str:
    return f"{value:.4f}" if measure == "loss" else f"{value:.1%}"


def _signed(value: float, measure: Measure) -> str:
    return f"{value:+.4f}" if measure == "loss" else f"{value * 100:+.1f} points"
