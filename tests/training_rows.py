"""Files of training rows in every format, good, nearly good and bad, as hypothesis draws them."""

import json
from typing import Any

from hypothesis import strategies as st

from tunesmith.tuning.values.json_objects import Json

WORDS = st.sampled_from(["one two", " two\n", "", " ", "<|im_end|>", "你好 🙂", "</think>", "{}"]) | st.text(max_size=6)
KEYS = (
    "messages", "role", "content", "weight", "tools", "tool_calls", "tool_call_id", "name", "reasoning", "thinking",
    "input", "preferred_output", "non_preferred_output", "prompt", "completion", "chosen", "rejected", "text", "type",
    "function", "arguments", "id", "extra",
)  # fmt: skip
JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1, 1.0, 0.5, -1, 10**30, "", "x", "\ud800", [], {}, ["x"], {"text": "x"}, [[]]]
)
LINES = st.sampled_from(
    [b"", b" \t\r", b"{", b"[1]", b"null", b'{"text": NaN}', b"\xff", b"\xef\xbb\xbf", b'{"text": "x"}\r']
)


def _object(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries(required, optional=optional)


CONTENT = WORDS | st.lists(_object({"type": st.just("text"), "text": WORDS}), min_size=1, max_size=2)
CALL = _object(
    {"function": _object({"name": WORDS}, arguments=st.sampled_from(["", "{}", '{"a": 1}', "no JSON", '"\\ud800"']))},
    id=WORDS,
    type=st.just("function"),
)
ASSISTANT = st.one_of(
    _object({"role": st.just("assistant"), "content": CONTENT}, weight=st.sampled_from([0, 1])),
    _object({"role": st.just("assistant"), "content": CONTENT}, reasoning_content=WORDS | st.none(), name=WORDS),
    _object({"role": st.just("assistant"), "tool_calls": st.lists(CALL, min_size=1, max_size=2)}, thinking=WORDS),
)
ASKING = st.one_of(
    _object({"role": st.sampled_from(["system", "developer", "user"]), "content": CONTENT}, name=WORDS),
    _object({"role": st.just("tool"), "content": CONTENT, "tool_call_id": WORDS}, name=WORDS),
)
TALK = st.lists(ASKING | ASSISTANT, min_size=1, max_size=4)
ANSWER = st.lists(ASSISTANT, min_size=1, max_size=2)
TOOLS = st.none() | st.lists(st.just({"type": "function", "function": {"name": "add"}}), max_size=2)
ROWS = st.one_of(
    _object({"messages": TALK}, tools=TOOLS, parallel_tool_calls=st.booleans()),
    _object({"prompt": WORDS, "completion": WORDS}),
    _object({"text": WORDS}),
    _object(
        {"input": _object({"messages": TALK}, tools=TOOLS), "preferred_output": ANSWER, "non_preferred_output": ANSWER}
    ),
    _object({"prompt": WORDS | TALK, "chosen": WORDS | ANSWER, "rejected": WORDS | ANSWER}),
)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A few lines: mostly rows of one kind, of which some were spoilt."""
    rows = draw(st.lists(ROWS, min_size=1, max_size=4))
    if draw(st.booleans()):
        rows = [row for row in rows if row.keys() == rows[0].keys()]
    lines = [_line(draw, row) for row in rows]
    if draw(st.integers(0, 5)) == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(LINES))
    return b"\n".join(lines) + draw(st.sampled_from([b"", b"\n"]))


def _line(draw: st.DrawFn, row: Json) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        _spoil(draw, row)
    return json.dumps(row).encode()


def _spoil(draw: st.DrawFn, value: Any) -> None:
    """Put something else in some place of a JSON value, or add or leave out a key."""
    while True:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        place = draw(st.sampled_from(places))
        inner = value[place]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        value = inner
    way = draw(st.sampled_from(["replace", "add", "leave out"]))
    if way == "replace" or not isinstance(value, dict):
        value[place] = draw(JUNK)
    elif way == "add":
        value[draw(st.sampled_from(KEYS))] = draw(JUNK | WORDS)
    else:
        del value[place]
