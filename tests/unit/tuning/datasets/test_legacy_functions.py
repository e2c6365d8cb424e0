"""Rows written before tools existed mean the same as their newer spelling."""

import json
from typing import Any

import pytest

from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.datasets.row_parser import parse_row

FUNCTION = {"name": "weather", "parameters": {"type": "object"}}
CALL = {"name": "weather", "arguments": '{"city": "Rome"}'}
ASKED = {"role": "user", "content": "Rome?"}
SAID = {"role": "assistant", "content": "Sunny."}


def row(**keys: Any) -> Any:
    return parse_row(json.dumps(keys).encode(), number=1)


def test_functions_and_their_calls_are_read_as_tools() -> None:
    old_call = {"role": "assistant", "content": None, "function_call": CALL}
    old_answer = {"role": "function", "name": "weather", "content": "sun"}
    old = row(messages=[ASKED, old_call, old_answer, SAID], functions=[FUNCTION])
    new_call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": CALL}],
    }
    new_answer = {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "sun"}
    tools = [{"type": "function", "function": FUNCTION}]
    assert old == row(messages=[ASKED, new_call, new_answer, SAID], tools=tools)


def test_a_function_call_that_is_null_is_no_call() -> None:
    assert row(messages=[ASKED, {**SAID, "function_call": None}]) == row(messages=[ASKED, SAID])


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"functions": [FUNCTION], "tools": []}, "functions and tools say the same"),
        ({"functions": "weather"}, "functions must be a list"),
    ],
)
def test_functions_that_cannot_be_read_are_refused(keys: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        row(messages=[ASKED, SAID], **keys)


def test_a_call_without_a_name_is_refused() -> None:
    with pytest.raises(BadRow, match="name must be a string"):
        row(messages=[ASKED, {"role": "assistant", "function_call": {"arguments": "{}"}}])
