"""Calls of tools in what a model wrote: Hermes and Qwen put each in `<tool_call>`, Llama 3 writes bare JSON."""

import json
import re
import secrets
from collections.abc import Collection
from typing import Any

_HERMES = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def read_calls(text: str, *, tools: Collection[str]) -> tuple[str, list[dict[str, Any]]]:
    """The text beside the calls, and the calls as OpenAI shows them.

    What is no call of one of these tools, or not whole, stays text: then all of it does, and there are no calls.
    """
    found = _HERMES.findall(text)
    rest = _HERMES.sub("", text).strip() if found else ""
    calls = [_call(one, tools) for one in found or [text.strip()]]
    whole = [call for call in calls if call is not None]
    if len(whole) < len(calls) or "<tool_call>" in rest:
        return text, []
    return rest, whole


def _call(text: str, tools: Collection[str]) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("name"), str) or said["name"] not in tools:
        return None
    arguments = said.get("arguments", said.get("parameters"))
    if not isinstance(arguments, dict):
        return None
    function = {"name": said["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
