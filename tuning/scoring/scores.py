"""What an answer can be scored by. A hit is yes or no, so that two models can be compared row by row."""

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.scoring.json_schema import JsonSchema, UnusableSchema, equal
from tunesmith.tuning.scoring.linear_regex import LONGEST_PATTERN, LinearPattern, UnusablePattern
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.json_objects import Json

LONGEST_LOOKED_AT = 8192  # characters of an answer that a pattern is searched in
MOST_LABELS = 200

_FENCE = re.compile(r"\A```[a-z]*\n(.*?)\n?```\Z", re.DOTALL)
Judge = Callable[[str, str], bool]  # answer, expected


class ExactScore(Value):
    """The answer is the expected one: in Unicode's NFC, each run of white space one space, none at the ends."""

    type: Literal["exact"]
    """Always `exact`."""
    ignore_case: bool = False
    """Whether capitals and small letters are the same."""


class RegexScore(Value):
    """The pattern is found in the answer, wherever `^` and `$` let it; what was expected plays no part."""

    type: Literal["regex"]
    """Always `regex`."""
    pattern: Annotated[str, Field(min_length=1, max_length=LONGEST_PATTERN)]
    """Python's syntax without references to groups and without looking ahead or behind: it runs in linear time."""


class JsonSchemaScore(Value):
    """The answer is JSON that the schema accepts; a Markdown fence around all of it is taken off."""

    type: Literal["json_schema"]
    """Always `json_schema`."""
    json_schema: Json
    """The schema, of the keywords that docs/evaluations.md lists."""


class JsonScore(Value):
    """Answer and expected answer are the same JSON value, whatever the order of keys and the spaces."""

    type: Literal["json"]
    """Always `json`."""


class ChoiceScore(Value):
    """The answer names the label that the expected answer names, and no other."""

    type: Literal["choice"]
    """Always `choice`."""
    labels: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=MOST_LABELS)]
    """What there is to choose from. Case and white space are looked over."""


Score = Annotated[ExactScore | RegexScore | JsonSchemaScore | JsonScore | ChoiceScore, Field(discriminator="type")]


def judge_of(score: ExactScore | RegexScore | JsonSchemaScore | JsonScore | ChoiceScore) -> Judge:
    """What says of (answer, expected) whether the answer is right.

    Raises:
        InvalidRequest: `invalid_score`: there is nothing to score by, with the reason.
    """
    if isinstance(score, ExactScore):
        return _exact(ignore_case=score.ignore_case)
    if isinstance(score, RegexScore):
        return _by_pattern(score.pattern)
    if isinstance(score, JsonSchemaScore):
        return _by_schema(score.json_schema)
    if isinstance(score, JsonScore):
        return _same_json
    return _by_label(score.labels)


def normalised(text: str, *, ignore_case: bool) -> str:
    """The text as it is compared."""
    composed = " ".join(unicodedata.normalize("NFC", text).split())
    return unicodedata.normalize("NFC", composed.casefold()) if ignore_case else composed


def label_in(text: str, labels: tuple[str, ...]) -> str | None:
    """The one label that a text is, or else the only one that stands in it as words of its own."""
    said = normalised(text, ignore_case=True)
    if said in labels:
        return said
    named = [label for label in labels if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", said)]
    longest = [one for one in named if not any(one != other and one in other for other in named)]
    return longest[0] if len(longest) == 1 else None


def _exact(*, ignore_case: bool) -> Judge:
    return lambda answer, expected: (
        normalised(answer, ignore_case=ignore_case) == normalised(expected, ignore_case=ignore_case)
    )


def _by_pattern(pattern: str) -> Judge:
    try:
        compiled = LinearPattern(pattern)
    except UnusablePattern as error:
        hint = "Use Python's syntax without back references and look-around, and shorter repetitions."
        raise _invalid(f"The pattern cannot be used: {error}.", "score.pattern", hint) from error
    return lambda answer, _: compiled.is_found_in(answer[:LONGEST_LOOKED_AT])


def _by_schema(schema: Json) -> Judge:
    try:
        checked = JsonSchema(schema)
    except UnusableSchema as error:
        hint = "docs/evaluations.md lists the keywords of JSON Schema that are checked."
        raise _invalid(f"The schema cannot be used: {error}.", "score.json_schema", hint) from error

    def accepts(answer: str, _: str) -> bool:
        is_json, value = _parsed(answer)
        return is_json and checked.accepts(value)

    return accepts


def _same_json(answer: str, expected: str) -> bool:
    (is_json, value), (was_json, wanted) = _parsed(answer), _parsed(expected)
    return is_json and was_json and equal(value, wanted)


def _by_label(labels: tuple[str, ...]) -> Judge:
    known = tuple(dict.fromkeys(normalised(label, ignore_case=True) for label in labels))
    if len(known) < 2 or "" in known:
        hint = "Name them all, as in choice:yes,no on the command line."
        raise _invalid("A choice needs two labels or more that differ.", "score.labels", hint)

    def chosen(answer: str, expected: str) -> bool:
        wanted = label_in(expected, known)
        return wanted is not None and label_in(answer, known) == wanted

    return chosen


def _parsed(text: str) -> tuple[bool, Any]:
    """Whether a text is JSON, and the value."""
    bare = text.strip()
    fenced = _FENCE.match(bare)
    try:
        return True, json.loads(fenced[1] if fenced else bare)
    except (ValueError, RecursionError):
        return False, None


def _invalid(message: str, param: str, hint: str) -> InvalidRequest:
    return InvalidRequest(message, code=ErrorCode.INVALID_SCORE, param=param, hint=hint)
