"""An evaluation in words: what was measured, how the models differ, the verdict, and the worst rows."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tunesmith.cli import output
from tunesmith.tuning.values.json_objects import Json

if TYPE_CHECKING:
    from tunesmith.tuning.api.comparisons.evaluations import EvaluatedRowObject, EvaluationObject

_SHOWN_CHARACTERS = 68
_MEASURES = (("loss", "loss"), ("token accuracy", "token_accuracy"), ("answers right", "score"))


def describe(
    found: "EvaluationObject", worst: Sequence["EvaluatedRowObject"], *, is_warned: bool = False
) -> Iterator[str]:
    """Everything that a person decides by, within 80 columns but for long names; who is warned has read it above."""
    if found.measures is None:
        return
    other = found.against_measures
    yield f"model       {found.model}"
    if found.against is not None:
        yield f"against     {found.against}"
    yield f"rows        {found.measures['rows']:,} of {found.file}, {found.measures['tokens']:,} taught tokens"
    yield from () if is_warned else warnings(found)
    yield ""
    for title, name in _MEASURES:
        if found.measures[name] is not None:
            yield f"{title:<16}{_measure(name, found.measures, other)}{_difference(name, found)}"
    if found.verdict is not None:
        yield ""
        yield f"verdict     {output.bold(found.verdict['word'])}"
        yield f"            {found.verdict['text']}"
    yield from _worst(worst)


def warnings(found: "EvaluationObject") -> Iterator[str]:
    """What was seen of the rows before, a line for each file."""
    yield from (f"warning     {seen['text']}" for seen in found.seen_rows)


def _measure(name: str, own: Json, other: Json | None) -> str:
    before = "" if other is None else f"{_amount(name, other[name]):>9} -> "
    return f"{before}{_amount(name, own[name]):>9}"


def _difference(name: str, found: "EvaluationObject") -> str:
    compared = (found.verdict or {}).get("comparisons", ())
    one = next((one for one in compared if one["measure"] == name), None)
    if one is None:
        return ""
    between = "unbounded" if one["low"] is None else f"{_signed(name, one['low'])} to {_signed(name, one['high'])}"
    return f"   {_signed(name, one['difference'])} ({between})  {one['word']}"


def _worst(rows: Sequence["EvaluatedRowObject"]) -> Iterator[str]:
    if rows:
        yield ""
        yield "where it is worst"
    for row in rows:
        yield f"line {row.line:<7}{_side(row.model)}" + (f", against {_side(row.against)}" if row.against else "")
        if row.expected:
            yield f"  expected  {_short(row.expected)}"
        for name, side in (("model", row.model), ("against", row.against)):
            if side is not None and side["answer"] is not None:
                yield f"  {name:<8}  {_short(side['answer'])}  {output.dim('right' if side['hit'] else 'wrong')}"


def _side(side: Json) -> str:
    return f"loss {side['loss'] / side['tokens']:.3f}"


def _amount(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "loss" else f"{value:.1%}"


def _signed(name: str, value: float) -> str:
    return f"{value:+.4f}" if name == "loss" else f"{value * 100:+.1f} points"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 3]}..."
