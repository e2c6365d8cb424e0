"""What a model writes as a call of a tool is one, and everything else stays text."""

import json

import pytest

from tunesmith.worker.inference.engine.answering.outbox import Delta
from tunesmith.worker.inference.engine.answering.tool_calls import read_calls
from tunesmith.worker.inference.engine.web.answers import CHAT, Choice, chat_calls

TOOLS = {"weather", "time"}
PARIS = '{"name": "weather", "arguments": {"city": "Paris"}}'


@pytest.mark.parametrize(
    ("text", "rest", "names"),
    [
        (f"<tool_call>\n{PARIS}\n</tool_call>", "", ["weather"]),
        (f'Let me see.\n<tool_call>{PARIS}</tool_call><tool_call>{{"name": "time", "arguments": {{}}}}</tool_call>',
         "Let me see.", ["weather", "time"]),
        ('{"name": "time", "parameters": {}}', "", ["time"]),
    ],
)  # fmt: skip
def test_calls_of_the_usual_formats_are_read(text: str, rest: str, names: list[str]) -> None:
    told, calls = read_calls(text, tools=TOOLS)
    assert (told, [call["function"]["name"] for call in calls]) == (rest, names)
    assert len({call["id"] for call in calls}) == len(calls)
    assert all(isinstance(json.loads(call["function"]["arguments"]), dict) for call in calls)


@pytest.mark.parametrize(
    "text",
    [
        "It rains in Paris.",
        f"<tool_call>{PARIS}",
        f"<tool_call>{PARIS[:-1]}</tool_call>",
        f"<tool_call>{PARIS}</tool_call><tool_call>no</tool_call>",
        '{"name": "delete", "arguments": {}}',
        '{"name": ["weather"], "arguments": {}}',
        '{"name": "weather", "arguments": "Paris"}',
        "[" * 100_000,
        "",
    ],
)
def test_what_is_no_whole_call_of_an_offered_tool_stays_text(text: str) -> None:
    assert read_calls(text, tools=TOOLS) == (text, [])


def test_a_call_is_shown_whole_and_streamed_as_openai_does() -> None:
    choice = Choice()
    choice.add(Delta(text=PARIS[:9]))
    choice.add(Delta(text=PARIS[9:], finish_reason="stop"))
    choice.read_calls(TOOLS)
    shown = CHAT.choice(0, choice, None)
    assert (shown["finish_reason"], shown["message"]["content"]) == ("tool_calls", None)
    piece = chat_calls(0, choice, None)
    assert piece["finish_reason"] == "tool_calls"
    assert piece["delta"]["tool_calls"] == [{"index": 0, **shown["message"]["tool_calls"][0]}]


def test_an_answer_that_was_cut_off_keeps_its_text_and_its_reason() -> None:
    choice = Choice()
    choice.add(Delta(text=PARIS, finish_reason="length"))
    choice.read_calls(TOOLS)
    assert (choice.text, choice.calls, choice.finish_reason) == (PARIS, [], "length")
