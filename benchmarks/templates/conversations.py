"""Twelve conversations that templates stumble over: calls with and without text, several calls, thoughts, odd texts."""

from typing import Any

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
    for name, description in (("get_weather", "Weather of a city."), ("get_time", "Local time of a city."))
]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str | None, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | ({"tool_calls": list(calls)} if calls else {}) | more


def _call(name: str, arguments: str, identity: str = "call00001") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(text: str, identity: str = "call00001", name: str = "get_weather") -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": identity, "name": name}


_PARIS = _call("get_weather", '{"city": "Paris", "days": 3}')
_ROME = _call("get_time", '{"city": "Rome"}', "call00002")

CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [_user("What is two and two?"), _assistant("Four, of course.")]},
    "several turns after a system message": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            _user("Name a river."),
            _assistant("The Rhine."),
            _user("And one more?"),
            _assistant("The Po.\nIt is in Italy."),
        ]
    },
    "repeated texts": {
        "messages": [_user("Yes"), _assistant("Yes"), _user("Yes"), _assistant("Yes"), _user("Yes"), _assistant("No")]
    },
    "an empty answer": {
        "messages": [_user("Say nothing."), _assistant(""), _user("Now speak."), _assistant("Here I am.")]
    },
    "emoji and other scripts": {
        "messages": [_user("Grüß mich 👋🏽"), _assistant("你好 👩‍👩‍👧‍👦 – ciao! é"), _user("नमस्ते"), _assistant("🙂")]
    },
    "spaces and line breaks around": {
        "messages": [_user("  a \n"), _assistant("\n b \n\n"), _user("c"), _assistant("<b>d</b>\n")]
    },
    "a call without text": {
        "messages": [
            _user("Weather in Paris?"),
            _assistant(None, _PARIS),
            _tool("18 degrees"),
            _assistant("It is 18."),
        ],
        "tools": TOOLS,
    },
    "a call with text, at the end": {
        "messages": [_user("Weather in Paris?"), _assistant("Let me check.", _PARIS)],
        "tools": TOOLS,
    },
    "parallel calls": {
        "messages": [
            _user("Weather in Paris, time in Rome?"),
            _assistant("Both at once.", _PARIS, _ROME),
            _tool("18 degrees"),
            _tool("12:30", "call00002", "get_time"),
            _assistant("18 degrees, 12:30."),
        ],
        "tools": TOOLS,
    },
    "calls, results and a new question": {
        "messages": [
            _user("Weather in Paris?"),
            _assistant(None, _PARIS),
            _tool("18 degrees"),
            _user("And the time in Rome?"),
            _assistant("One moment.", _ROME),
            _tool("12:30", "call00002", "get_time"),
            _assistant("Half past twelve."),
        ],
        "tools": TOOLS,
    },
    "reasoning": {
        "messages": [
            _user("Is 91 prime?"),
            _assistant("No.", reasoning_content="7 times 13 is 91."),
            _user("And 97?"),
            _assistant("Yes.", reasoning_content="No prime up to 9 divides it."),
        ]
    },
    "reasoning inside the text": {
        "messages": [
            _user("Is 91 prime?"),
            _assistant("<think>\n7 times 13 is 91.\n</think>\n\nNo."),
            _user("And 97?"),
            _assistant("<think>\nNo prime up to 9 divides it.\n</think>\n\nYes."),
        ]
    },
}
