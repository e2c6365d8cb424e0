"""A line of JSON becomes one typed row, or an error with its line, its reason and what to do."""

import json
from typing import Any

import pytest

from tunesmith.tuning.datasets.row_errors import BadRow, NothingToLearn
from tunesmith.tuning.datasets.row_formats import (
    Chat,
    Completion,
    Message,
    PreferencePair,
    Row,
    RowFormat,
    Text,
    ToolCall,
    arguments_as_data,
    sequences_of,
    template_message,
)
from tunesmith.tuning.datasets.row_parser import RowReader, parse_prompt, parse_row

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
HI, HELLO = Message("user", "hi"), Message("assistant", "hello")


def parse(row: object, *, number: int = 1) -> Row | None:
    return parse_row(json.dumps(row).encode(), number=number)


@pytest.mark.parametrize(
    ("row", "parsed"),
    [
        ({"messages": [USER, ASSISTANT]}, Chat((HI, HELLO))),
        ({"messages": [USER, ASSISTANT], "tools": []}, Chat((HI, HELLO), ())),
        ({"prompt": "2+2=", "completion": "4"}, Completion("2+2=", "4")),
        ({"text": "once"}, Text("once")),
        ({"prompt": "hi", "chosen": "hello", "rejected": "go"}, PreferencePair("hi", "hello", "go")),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": "go"}, PreferencePair((HI,), (HELLO,), "go")),
        (
            {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": [ASSISTANT]},
            PreferencePair((HI,), (HELLO,), (HELLO,)),
        ),
    ],
)
def test_each_format_has_a_type(row: object, parsed: Row) -> None:
    found = parse(row)
    assert found == parsed
    assert type(found) is type(parsed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, Message("assistant", "ab")),
        ({"content": "a", "weight": 0}, Message("assistant", "a", weight=0)),
        ({"content": "a", "tool_calls": None, "reasoning": None}, Message("assistant", "a")),
        ({"content": "a", "tool_call_id": "1"}, Message("assistant", "a")),
        ({"content": "a", "thinking": "b"}, Message("assistant", "a", reasoning="b", reasoning_key="thinking")),
        (
            {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g"}}]},
            Message("assistant", tool_calls=(ToolCall("f", "{}", id="1"), ToolCall("g"))),
        ),
    ],
)
def test_a_message_has_its_fields_with_their_defaults(fields: dict[str, Any], message: Message) -> None:
    assert parse({"messages": [ASSISTANT, {"role": "assistant", **fields}]}) == Chat((HELLO, message))


@pytest.mark.parametrize(
    ("message", "is_taught"),
    [
        (HELLO, True),
        (HELLO._replace(weight=1), True),
        (HELLO._replace(weight=0), False),
        (HI, False),
    ],
)
def test_the_assistants_messages_are_taught_unless_their_weight_is_zero(message: Message, is_taught: bool) -> None:
    assert message.is_taught is is_taught


def test_the_words_of_a_message_are_thoughts_content_and_calls() -> None:
    calls = (ToolCall("add", '{"a": 1}'), ToolCall("stop"))
    assert Message("assistant", "b", reasoning="a", tool_calls=calls).words == 'abadd{"a": 1}stop'


def test_of_a_pair_only_the_answers_are_taught() -> None:
    pair = PreferencePair((HI, HELLO, HI), "yes", (Message("assistant", "no"),))
    chosen, rejected = sequences_of(pair)
    assert isinstance(chosen, Chat)
    assert isinstance(rejected, Chat)
    for chat, answer in ((chosen, "yes"), (rejected, "no")):
        assert [message.content for message in chat.messages if message.is_taught] == [answer]
    assert list(sequences_of(PreferencePair("a", "b", "c"))) == [Completion("a", "b"), Completion("a", "c")]


@pytest.mark.parametrize(
    ("line", "reason", "fix"),
    [
        (b'{"messages": 1}', "'messages' must be a list of messages, not a number", "Correct the line"),
        (b'{"text": "x", "more": 1}', "unknown key more", "leave it out"),
        (b"\xff", "not UTF-8", "Save the file as UTF-8"),
        (b'{"text": "' + b"x" * 64 + b'"}', "longer than 60 bytes", "Split it"),
    ],
)
def test_an_error_has_line_reason_and_fix(line: bytes, reason: str, fix: str) -> None:
    with pytest.raises(BadRow) as caught:
        parse_row(line, number=7, max_row_bytes=60)
    assert caught.value.line == 7
    assert reason in caught.value.reason
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER]},
        {"messages": [USER, {**ASSISTANT, "weight": 0}]},
        {"messages": [{"role": "assistant", "content": ""}]},
        {"text": ""},
        {"prompt": "x", "completion": ""},
    ],
)
def test_a_row_that_teaches_nothing_has_an_error_of_its_own(row: object) -> None:
    with pytest.raises(NothingToLearn, match="nothing to learn"):
        parse(row)


def test_all_rows_of_a_file_have_the_format_of_the_first_good_one() -> None:
    reader = RowReader()
    with pytest.raises(BadRow):
        reader.read(b"{}", number=1)
    assert reader.read(b'{"text": "x"}', number=2) == Text("x")
    assert reader.format is RowFormat.TEXT
    assert reader.read(b" ", number=3) is None
    with pytest.raises(BadRow, match="a completion row in a file of text rows") as caught:
        reader.read(b'{"prompt": "x", "completion": "y"}', number=4)
    assert caught.value.line == 4


@pytest.mark.parametrize(
    ("escapes", "is_text"),
    [
        (r"\ud83d\ude00", True),
        (r"\uD83D\uDE00\ud83d\ude00", True),
        (r"\\ud83d", True),
        (r"\\\ud83d\ude00", True),
        (r"\ud83d", False),
        (r"\ude00", False),
        (r"\ud83d\ud83d\ude00", False),
        (r"\ud83d\ude00\ude00", False),
        (r"\\ud83d\ude00", False),
        (r"\ud83d\\ude00", False),
    ],
)
def test_half_a_surrogate_pair_is_found_wherever_it_stands(escapes: str, is_text: bool) -> None:
    line = f'{{"messages": [{{"role": "assistant", "content": "x", "name": "{escapes}"}}]}}'.encode()
    if is_text:
        assert parse_row(line, number=1) is not None
    else:
        with pytest.raises(BadRow, match="surrogate"):
            parse_row(line, number=1)


def test_a_prompt_is_a_conversation_or_a_text() -> None:
    assert parse_prompt(json.dumps({"messages": [USER]}).encode(), number=1) == Chat((HI,))
    assert parse_prompt(b'{"prompt": "once", "completion": "upon"}', number=1) == "once"
    assert parse_prompt(b"", number=1) is None
    with pytest.raises(BadRow, match="neither"):
        parse_prompt(b'{"text": "x"}', number=1)


def test_templates_are_given_the_fields_that_a_message_has() -> None:
    assert template_message(HELLO._replace(weight=1)) == ASSISTANT
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    thoughtful = Message("assistant", reasoning="", reasoning_key="thinking", tool_calls=(ToolCall("f", "{}", id="1"),))
    assert template_message(thoughtful) == {"role": "assistant", "content": "", "thinking": "", "tool_calls": [call]}
    answer = Message("tool", "4", name="f", tool_call_id="1")
    assert template_message(answer) == {"role": "tool", "content": "4", "name": "f", "tool_call_id": "1"}


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        ("", {}),
        ('{"a": 1}', {"a": 1}),
        ("no JSON", "no JSON"),
        (r'{"a": "\ud800"}', r'{"a": "\ud800"}'),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_arguments_of_a_call_are_data_or_stay_the_text_that_they_are(arguments: str, data: Any) -> None:
    assert arguments_as_data(arguments) == data
