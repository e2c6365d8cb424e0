"""Rows from before tools: `functions` and `function_call` are read as `tools` and `tool_calls`."""

from typing import Any

from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.values.json_objects import Json


def with_tools(chat: Json, *, where: str) -> Json:
    """The same conversation in today's words; one that has none of the old ones comes back as it is.

    A call of old has no id: the first is `call_1`, and an answer belongs to the call before it.

    Raises:
        BadRow: it has both `functions` and `tools`, or `functions` that are no list.
    """
    messages = chat.get("messages")
    is_list = isinstance(messages, list)
    if "functions" not in chat and not (is_list and any(map(_is_old, messages or ()))):
        return chat
    changed = {key: value for key, value in chat.items() if key != "functions"}
    if (functions := chat.get("functions")) is not None:
        if chat.get("tools") is not None:
            raise BadRow(f"{where}functions and {where}tools say the same: keep tools")
        if not isinstance(functions, list):
            raise BadRow(f"{where}functions must be a list of objects")
        changed["tools"] = [{"type": "function", "function": function} for function in functions]
    if is_list:
        changed["messages"] = _messages(messages or [])
    return changed


def _is_old(message: Any) -> bool:
    return isinstance(message, dict) and ("function_call" in message or message.get("role") == "function")


def _messages(messages: list[Any]) -> list[Any]:
    calls, changed = 0, []
    for message in messages:
        if _is_old(message):
            calls += message.get("function_call") is not None
            changed.append(_message(message, call_id=f"call_{max(calls, 1)}"))
        else:
            changed.append(message)
    return changed


def _message(message: Json, *, call_id: str) -> Json:
    """An assistant's call, or a function's answer."""
    kept = {key: value for key, value in message.items() if key != "function_call"}
    if message.get("role") == "function":
        return {**kept, "role": "tool", "tool_call_id": call_id}
    if (call := message.get("function_call")) is None:
        return kept
    return {**kept, "tool_calls": [{"id": call_id, "type": "function", "function": call}]}
