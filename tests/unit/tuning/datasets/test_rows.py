"""The line-by-line check of a training file."""

import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tuning.datasets.row_formats import RowFormat
from tunesmith.tuning.datasets.rows import RowChecker, RowReport


def check(*lines: object, max_row_bytes: int = 1 << 20) -> RowReport:
    checker = RowChecker(max_row_bytes=max_row_bytes)
    for line in lines:
        checker.feed((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
    return checker.finish()


def chat(*turns: tuple[str, str], **extra: object) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **extra}


GOOD = chat(("user", "2+2?"), ("assistant", "4"))


@pytest.mark.parametrize(
    ("row", "format_"),
    [
        (GOOD, RowFormat.CHAT),
        (chat(("developer", "be kind"), ("user", "hi"), ("assistant", "hello")), RowFormat.CHAT),
        ({"prompt": "2+2=", "completion": "4"}, RowFormat.COMPLETION),
        ({"text": "once upon a time"}, RowFormat.TEXT),
        ({"prompt": "hi", "chosen": "hello", "rejected": "go away"}, RowFormat.PREFERENCE),
        (
            {
                "input": {"messages": [{"role": "user", "content": "hi"}]},
                "preferred_output": [{"role": "assistant", "content": "hello"}],
                "non_preferred_output": [{"role": "assistant", "content": "go away"}],
            },
            RowFormat.PREFERENCE,
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                    {"role": "assistant", "content": "x"},
                ]
            },
            RowFormat.CHAT,
        ),
    ],
)
def test_every_documented_format_is_recognised(row: object, format_: RowFormat) -> None:
    report = check(row)
    assert (report.summary, report.format, report.rows) == (None, format_, 1)


def test_a_tool_conversation_is_good_and_is_noticed() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "w", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "rain"},
            {"role": "assistant", "content": "Rain."},
        ],
        "tools": [{"type": "function", "function": {"name": "w", "parameters": {}}}],
        "parallel_tool_calls": False,
    }
    report = check(row)
    assert report.summary is None
    assert report.has_tools


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_beside_the_content_is_counted_as_the_assistants(key: str) -> None:
    plain = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    thoughtful = {"messages": [plain["messages"][0], {**plain["messages"][1], key: "z" * 400}]}
    more = check(thoughtful).supervised_tokens - check(plain).supervised_tokens
    assert more == 100


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "not valid JSON"),
        (b'{"text": NaN}', "NaN is not a JSON number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff at position 10"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b"[1]", "must be a JSON object, not a list"),
        ({}, "the row has none of"),
        ({"mesages": []}, "did you mean 'messages'?"),
        ({"messages": "hi"}, "must be a list of messages, not a string"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": ["hi"]}, "messages[0] must be an object"),
        (chat(("robot", "hi"), ("assistant", "x")), "role must be one of"),
        (chat(("user", "hi")), "no assistant message"),
        (chat(("user", "hi"), ("assistant", "")), "nothing to learn"),
        ({**GOOD, "extra": 1}, "unknown key extra"),
        ({"messages": [{"role": "assistant", "content": 5}]}, "content must be a string, not a number"),
        ({"messages": [{"role": "assistant", "content": None}]}, "content must be a string, not null"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]}, "weight must be 0 or 1"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": True}]}, "weight must be 0 or 1"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, "nothing to learn"),
        (
            {"messages": [{"role": "user", "content": "x", "weight": 1}, {"role": "assistant", "content": "x"}]},
            "only assistant",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "x"}]},
            "only text",
        ),
        ({"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "x"}]}, "tool_call_id"),
        (
            {"messages": [{"role": "user", "content": "x", "reasoning": "y"}, {"role": "assistant", "content": "x"}]},
            "only assistant messages have reasoning",
        ),
        ({"messages": [{"role": "assistant", "content": "x", "reasoning": "y", "thinking": "z"}]}, "keep one"),
        ({"messages": [{"role": "assistant", "content": "x", "reasoning": 1}]}, "must be a string, not a number"),
        ({"prompt": "x"}, "'completion' is missing"),
        ({"prompt": "x", "completion": 3}, "'completion' must be a string, not a number"),
        ({"prompt": "x", "completion": ""}, "nothing to learn"),
        ({"completion": "x"}, "'prompt' is missing"),
        ({"text": ""}, "nothing to learn"),
        ({"prompt": "x", "chosen": "y"}, "'rejected' must be"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_reason(row: object, reason: str) -> None:
    report = check(GOOD, row)
    assert report.problem_count == 1
    assert report.problems[0].line == 2
    assert reason in report.problems[0].reason


def test_a_file_has_one_format() -> None:
    assert "a text row in a file of chat rows" in (check(GOOD, {"text": "x"}).summary or "")


def test_an_empty_file_says_so() -> None:
    assert check(b"", b"   ").summary == "The file has no rows."
    assert RowChecker().finish().summary == "The file has no rows."


def test_a_byte_order_mark_is_accepted_and_utf_16_is_recognised() -> None:
    assert check(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()).summary is None
    assert "UTF-16" in (check(json.dumps(GOOD).encode("utf-16")).summary or "")


def test_windows_line_ends_and_a_missing_last_newline_are_fine() -> None:
    checker = RowChecker()
    checker.feed(json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode())
    assert checker.finish().rows == 2


def test_only_the_first_problems_are_kept_and_all_are_counted() -> None:
    report = check(*[b"{"] * 1000)
    assert (report.problem_count, len(report.problems)) == (1000, 20)
    assert (report.summary or "").endswith("and 980 more")


def process_seconds(checker: RowChecker, content: bytes) -> float:
    began = time.process_time()
    for start in range(0, len(content), 1 << 20):
        checker.feed(content[start : start + (1 << 20)])
    return time.process_time() - began


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \t\n"])
def test_a_million_blank_lines_cost_less_than_twenty_thousand_rows(blank: bytes) -> None:
    rows = process_seconds(RowChecker(), b'{"text": "once upon a time"}\n' * 20_000)
    checker = RowChecker()
    assert process_seconds(checker, blank * 1_000_000) < rows
    checker.feed(b"no row\n")
    assert [problem.line for problem in checker.finish().problems] == [1_000_001]


def test_lines_too_short_for_a_row_are_counted_and_not_read_once_enough_are_shown() -> None:
    read = process_seconds(RowChecker(), b'{"text": 123}\n' * 50_000)
    checker = RowChecker()
    assert process_seconds(checker, b"x\n" * 50_000) < read / 2
    checker.feed(b'{"text":"a"}\n')  # the shortest that there is
    report = checker.finish()
    assert (report.rows, report.problem_count, len(report.problems)) == (1, 50_000, 20)
    assert "JSON" in report.problems[-1].reason


def test_supervised_tokens_are_those_of_weighted_assistant_turns() -> None:
    both = check(
        {
            "messages": [
                {"role": "assistant", "content": "a" * 400},
                {"role": "assistant", "content": "b" * 400, "weight": 0},
            ]
        }
    )
    assert both.supervised_tokens == 101  # and the token that ends the reply
    assert both.tokens == 210
    assert both.has_weights


def test_a_fifty_megabyte_line_costs_no_memory() -> None:
    tracemalloc.start()
    checker = RowChecker(max_row_bytes=1 << 20)
    checker.feed(b'{"text": "')
    for _ in range(800):
        checker.feed(b"x" * 65536)
    checker.feed(b'"}\n' + json.dumps({"text": "ok"}).encode())
    report = checker.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert report.summary == "1 of 2 rows cannot be trained on. line 1: the row is longer than 1 MiB"


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(
        st.one_of(
            st.binary(max_size=40).filter(lambda data: b"\n" not in data),
            st.sampled_from([json.dumps(GOOD).encode(), b'{"text": "x"}', b'{"prompt": "a", "completion": "b"}', b""]),
        ),
        max_size=8,
    ),
    cuts=st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=10),
)
def test_the_report_does_not_depend_on_how_the_bytes_arrive(lines: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(lines)
    whole = RowChecker(max_row_bytes=64)
    whole.feed(data)
    pieces = RowChecker(max_row_bytes=64)
    position = turn = 0
    while position < len(data):
        length = cuts[turn % len(cuts)]
        pieces.feed(data[position : position + length])
        position, turn = position + length, turn + 1
    assert pieces.finish() == whole.finish()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "role",
                    "content",
                    "prompt",
                    "completion",
                    "text",
                    "input",
                    "weight",
                    "tools",
                    "tool_calls",
                    "chosen",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(row=_JSON)
def test_no_json_value_makes_the_check_itself_fail(row: object) -> None:
    report = check(row)
    assert report.rows + report.problem_count == 1
