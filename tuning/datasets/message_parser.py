"""Messages and tools from decoded JSON: every rule about a message, its defaults, and the reasons for refusing one."""

from typing import Any

from tunesmith.tuning.datasets.legacy_functions import with_tools
from tunesmith.tuning.datasets.row_errors import BadRow, kind_of, refuse_unknown_keys
from tunesmith.tuning.datasets.row_formats import REASONING_KEYS, ROLES, Chat, Message, Messages, Role, ToolCall
from tunesmith.tuning.values.json_objects import Json

CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls", "functions"})
MESSAGE_KEYS = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id", *REASONING_KEYS})


def parse_chat(value: Json, *, where: str = "") -> Chat:
    """The conversation of an object with `messages` and perhaps `tools`; `where` is what stands before their keys.

    Raises:
        BadRow: with the reason.
    """
    value = with_tools(value, where=where)
    messages = parse_messages(value.get("messages"), where=f"{where}messages")
    return Chat(messages, _tools(value, where=where))


def parse_messages(value: Any, *, where: str) -> Messages:
    """At least one message; `where` names the list in reasons.

    Raises:
        BadRow: with the reason.
    """
    if not isinstance(value, list):
        raise BadRow(f"{where!r} must be a list of messages, not {kind_of(value)}")
    if not value:
        raise BadRow(f"{where!r} is empty")
    return tuple([_message(message, where=f"{where}[{index}]") for index, message in enumerate(value)])


def _message(value: Any, *, where: str) -> Message:
    if not isinstance(value, dict):
        raise BadRow(f"{where} must be an object, not {kind_of(value)}")
    role = value.get("role")
    if role not in ROLES:
        raise BadRow(f"{where}.role must be one of {', '.join(ROLES)}, not {role!r:.40}")
    content = value.get("content")
    if len(value) == 2 and isinstance(content, str) and role != "tool":  # nearly all: nothing else to look at
        return Message(role, content)
    refuse_unknown_keys(value, MESSAGE_KEYS, where=f"{where}.")
    name = value.get("name")
    if not isinstance(name, str) and "name" in value:
        raise BadRow(f"{where}.name must be a string, not {kind_of(name)}")
    content = _content(value, where=where)
    call_id = _tool_call_id(value, where=where) if role == "tool" else None
    calls = _tool_calls(value, where=where) if "tool_calls" in value else ()
    reasoning, reasoning_key = _reasoning(value, where=where)
    weight = _weight(value, role=role, where=where) if "weight" in value else None
    return Message(role, content, name, weight, reasoning, reasoning_key, calls, call_id)


def _content(message: Json, *, where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant" and message.get("tool_calls"):
        return ""
    if isinstance(content, list):
        return "".join(_text_part(part, where=f"{where}.content[{index}]") for index, part in enumerate(content))
    raise BadRow(f"{where}.content must be a string, not {kind_of(content)}")


def _text_part(part: Any, *, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BadRow(f'{where} must be {{"type": "text", "text": ...}}: only text is taken')


def _tool_call_id(message: Json, *, where: str) -> str:
    """Of a tool's message; beside another's a `tool_call_id` means nothing."""
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str):
        raise BadRow(f"{where}.tool_call_id must name the call that this message answers")
    return call_id


def _tool_calls(message: Json, *, where: str) -> tuple[ToolCall, ...]:
    calls = message["tool_calls"]
    if calls is None:
        return ()
    if message["role"] != "assistant":
        raise BadRow(f"{where}.tool_calls: only the assistant calls tools")
    if not isinstance(calls, list):
        raise BadRow(f"{where}.tool_calls must be a list, not {kind_of(calls)}")
    return tuple([_tool_call(call, where=f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)])


def _tool_call(call: Any, *, where: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"{where}.function.name must be a string")
    arguments = function.get("arguments", "")
    if not isinstance(arguments, str):
        raise BadRow(f"{where}.function.arguments must be a string of JSON")
    return ToolCall(function["name"], arguments, call.get("id"))


def _reasoning(message: Json, *, where: str) -> tuple[str | None, str]:
    """What the assistant thought, if the message says, and the key that says it."""
    given = [key for key in REASONING_KEYS if message.get(key) is not None]
    if not given:
        return None, REASONING_KEYS[0]
    key, reasoning = given[0], message[given[0]]
    if message["role"] != "assistant":
        raise BadRow(f"{where}.{key}: only assistant messages have reasoning")
    if len(given) > 1:
        raise BadRow(f"{where} has both {key!r} and {given[1]!r}: keep one")
    if not isinstance(reasoning, str):
        raise BadRow(f"{where}.{key} must be a string, not {kind_of(reasoning)}")
    return reasoning, key


def _weight(message: Json, *, role: Role, where: str) -> int:
    weight = message["weight"]
    if role != "assistant":
        raise BadRow(f"{where}.weight: only assistant messages have a weight")
    if isinstance(weight, bool) or weight not in (0, 1):
        raise BadRow(f"{where}.weight must be 0 or 1, not {weight!r:.40}")
    return int(weight)


def _tools(value: Json, *, where: str) -> tuple[Json, ...] | None:
    tools = value.get("tools")
    if not isinstance(value.get("parallel_tool_calls", False), bool):
        raise BadRow(f"{where}parallel_tool_calls must be true or false")
    if tools is None:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow(f"{where}tools must be a list of objects")
    return tuple(tools)
