"""What counts as a right answer."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.scoring.scores import Score, judge_of

SCORES: TypeAdapter[Any] = TypeAdapter(Score)


def is_right(score: dict[str, Any], answer: str, expected: str = "") -> bool:
    return judge_of(SCORES.validate_python(score))(answer, expected)


def test_an_exact_answer_may_differ_in_white_space_and_unicode_form_alone() -> None:
    assert is_right({"type": "exact"}, "  a\u0301 b\n", "\u00e1  b")
    assert not is_right({"type": "exact"}, "Paris", "paris")
    assert is_right({"type": "exact", "ignore_case": True}, "STRASSE", "straße")


def test_a_pattern_is_searched_in_the_answer() -> None:
    assert is_right({"type": "regex", "pattern": r"\b\d{4}-\d\d\b"}, "on 2026-05 they met")
    assert not is_right({"type": "regex", "pattern": r"^yes$"}, "yes, but")


def test_an_answer_in_json_may_stand_in_a_fence() -> None:
    score = {"type": "json_schema", "json_schema": {"type": "object", "required": ["name"]}}
    assert is_right(score, '```json\n{"name": 1}\n```')
    assert not is_right(score, '{"name": 1} and more')
    assert not is_right(score, "[]")
    assert not is_right(score, "[" * 100_000), "however deep"


def test_equal_json_is_equal_whatever_the_order_of_keys() -> None:
    assert is_right({"type": "json"}, '{"b": [1.0], "a": null}', '{"a":null,"b":[1]}')
    assert not is_right({"type": "json"}, "1", "true")
    assert not is_right({"type": "json"}, "not json", "not json")


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Not spam", True), ("I think: not spam.", True), ("spam", False), ("spam or ham", False), ("nonspam", False)],
)
def test_a_choice_is_the_one_label_that_an_answer_names(answer: str, right: bool) -> None:
    score = {"type": "choice", "labels": ["spam", "not spam", "ham"]}
    assert is_right(score, answer, "not spam") is right


def test_an_answer_that_names_two_labels_names_none() -> None:
    score = {"type": "choice", "labels": ["spam", "ham"]}
    assert is_right(score, "It is spam.", "spam")
    assert not is_right(score, "spam or ham", "spam")
    assert not is_right(score, "ham", "neither")


@pytest.mark.parametrize(
    ("score", "param"),
    [
        ({"type": "regex", "pattern": "(a"}, "score.pattern"),
        ({"type": "json_schema", "json_schema": {"type": "thing"}}, "score.json_schema"),
        ({"type": "choice", "labels": []}, "score.labels"),
        ({"type": "choice", "labels": ["Yes", "yes "]}, "score.labels"),
    ],
)
def test_what_nothing_can_be_scored_by_is_refused_with_its_field(score: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        is_right(score, "")
    assert (refused.value.code, refused.value.param) == (ErrorCode.INVALID_SCORE, param)
    assert refused.value.hint
