"""What one training row may look like: chat, prompt and completion, plain text, or a pair to prefer from.

Formats (keys in brackets are optional):

    chat        {"messages": [{role, content, [name, weight, tool_calls, tool_call_id, reasoning_content]}],
                 [tools, parallel_tool_calls]}
    completion  {"prompt": str, "completion": str}
    text        {"text": str}
    preference  {"input": {"messages", ...}, "preferred_output": [message], "non_preferred_output": [message]}
                or {"prompt": ..., "chosen": ..., "rejected": ...} with strings or messages
"""

import difflib
import json
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple

_ROLES = ("system", "developer", "user", "assistant", "tool")
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")  # by which name depends on who wrote the file
_MESSAGE_KEYS = frozenset({"role", "content", "name", "weight", "tool_calls", "tool_call_id", *_REASONING_KEYS})
_CHAT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})
_OVERHEAD_TOKENS = 5  # of the chat template around each message: role, separators
_STOP_TOKENS = 1  # ends every reply, and is learnt with it
_BYTES_PER_TOKEN = 4  # English prose under a byte-pair tokenizer of 32k to 150k entries; other scripts take fewer


class RowFormat(StrEnum):
    """The shape of every row of one file."""

    CHAT = "chat"
    COMPLETION = "completion"
    TEXT = "text"
    PREFERENCE = "preference"


class RowFacts(NamedTuple):
    """What one good row adds to the counts. Tokens are estimates; `longest` is one sequence, `tokens` all of them."""

    format: RowFormat
    characters: int
    tokens: int
    longest: int
    supervised_tokens: int
    has_tools: bool = False
    has_weights: bool = False


class BadRow(ValueError):
    """A row that cannot be trained on; its text is the reason."""


class _Size(NamedTuple):
    characters: int = 0
    tokens: int = 0
    supervised_tokens: int = 0

    def plus(self, other: "_Size") -> "_Size":
        return _Size(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def read_row(row: Any) -> RowFacts:
    """Check one decoded row and count it.

    Raises:
        BadRow: with the reason.
    """
    if not isinstance(row, dict):
        raise BadRow(f"a row must be a JSON object, not {_kind(row)}")
    for marker, read in _READERS.items():
        if marker in row:
            return read(row)
    wanted = "'messages', 'prompt' and 'completion', 'text', or 'input' with 'preferred_output'"
    raise BadRow(f"the row has none of {wanted}{_near(row, _READERS)}")


def _read_chat(row: dict[str, Any]) -> RowFacts:
    _only(row, _CHAT_KEYS)
    size, has_weights = _conversation(row["messages"], where="messages", must_teach=True)
    tools = _tools(row)
    return RowFacts(
        format=RowFormat.CHAT,
        characters=size.characters + tools.characters,
        tokens=size.tokens + tools.tokens,
        longest=size.tokens + tools.tokens,
        supervised_tokens=size.supervised_tokens,
        has_tools=bool(tools.characters),
        has_weights=has_weights,
    )


def _read_completion(row: dict[str, Any]) -> RowFacts:
    if "chosen" in row or "rejected" in row:
        return _read_pair(row)
    _only(row, frozenset({"prompt", "completion"}))
    prompt = _text(row, "prompt")
    completion = _text(row, "completion")
    if not completion.characters:
        raise BadRow("'completion' is empty: there is nothing to learn")
    tokens = prompt.tokens + completion.tokens
    characters = prompt.characters + completion.characters
    return RowFacts(RowFormat.COMPLETION, characters, tokens, tokens, completion.tokens)


def _read_text(row: dict[str, Any]) -> RowFacts:
    _only(row, frozenset({"text"}))
    size = _text(row, "text")
    if not size.characters:
        raise BadRow("'text' is empty: there is nothing to learn")
    return RowFacts(RowFormat.TEXT, size.characters, size.tokens, size.tokens, size.tokens)


def _read_preference(row: dict[str, Any]) -> RowFacts:
    _only(row, frozenset({"input", "preferred_output", "non_preferred_output"}))
    if not isinstance(row["input"], dict):
        raise BadRow(f"'input' must be an object with 'messages', not {_kind(row['input'])}")
    _only(row["input"], _CHAT_KEYS, where="input.")
    prompt, _ = _conversation(row["input"].get("messages"), where="input.messages", must_teach=False)
    tools = _tools(row["input"], where="input.")
    answers = [_answer(row.get(key), key) for key in ("preferred_output", "non_preferred_output")]
    return _pair(prompt.plus(tools), answers, has_tools=bool(tools.characters))


def _read_pair(row: dict[str, Any]) -> RowFacts:
    _only(row, frozenset({"prompt", "chosen", "rejected"}))
    parts = []
    for key in ("prompt", "chosen", "rejected"):
        value = row.get(key)
        parts.append(
            _text(row, key) if isinstance(value, str) else _conversation(value, where=key, must_teach=False)[0]
        )
    return _pair(parts[0], parts[1:], has_tools=False)


def _pair(prompt: _Size, answers: list[_Size], *, has_tools: bool) -> RowFacts:
    if not all(answer.characters for answer in answers):
        raise BadRow("both answers of a preference row must say something")
    return RowFacts(
        format=RowFormat.PREFERENCE,
        characters=prompt.characters + sum(answer.characters for answer in answers),
        tokens=2 * prompt.tokens + sum(answer.tokens for answer in answers),
        longest=prompt.tokens + max(answer.tokens for answer in answers),
        supervised_tokens=sum(answer.tokens for answer in answers),
        has_tools=has_tools,
    )


_READERS: dict[str, Callable[[dict[str, Any]], RowFacts]] = {
    "messages": _read_chat,
    "input": _read_preference,
    "prompt": _read_completion,
    "completion": lambda _row: _missing("prompt"),
    "chosen": lambda _row: _missing("prompt"),
    "preferred_output": lambda _row: _missing("input"),
    "text": _read_text,
}


def _missing(key: str) -> RowFacts:
    raise BadRow(f"{key!r} is missing")


def _answer(value: Any, key: str) -> _Size:
    size, _ = _conversation(value, where=key, must_teach=False)
    if any(message["role"] != "assistant" for message in value):
        raise BadRow(f"{key!r} may only hold assistant messages")
    return size


def _conversation(messages: Any, *, where: str, must_teach: bool) -> tuple[_Size, bool]:
    """Sum up a list of messages and say whether any has a weight."""
    if not isinstance(messages, list):
        raise BadRow(f"{where!r} must be a list of messages, not {_kind(messages)}")
    if not messages:
        raise BadRow(f"{where!r} is empty")
    size = _Size()
    for index, message in enumerate(messages):
        size = size.plus(_message(message, where=f"{where}[{index}]"))
    if must_teach and not any(message["role"] == "assistant" for message in messages):
        raise BadRow("there is no assistant message: there is nothing to learn")
    if must_teach and not size.supervised_tokens:
        raise BadRow("every assistant message is empty or has weight 0: there is nothing to learn")
    return size, any("weight" in message for message in messages)


def _message(message: Any, *, where: str) -> _Size:
    if not isinstance(message, dict):
        raise BadRow(f"{where} must be an object, not {_kind(message)}")
    role = message.get("role")
    if role not in _ROLES:
        raise BadRow(f"{where}.role must be one of {', '.join(_ROLES)}, not {role!r:.40}")
    _only(message, _MESSAGE_KEYS, where=f"{where}.")
    if "name" in message and not isinstance(message["name"], str):
        raise BadRow(f"{where}.name must be a string, not {_kind(message['name'])}")
    content = _content(message, where=where)
    calls = _tool_calls(message, where=where)
    body = _measure(content + calls + _reasoning(message, where=where))
    tokens = body.tokens + _OVERHEAD_TOKENS
    teaches = _teaches(message, where=where) and body.tokens
    return _Size(body.characters, tokens, body.tokens + _STOP_TOKENS if teaches else 0)


def _reasoning(message: dict[str, Any], *, where: str) -> str:
    """What the assistant thought, in a field of its own."""
    given = [key for key in _REASONING_KEYS if message.get(key) is not None]
    if given and message["role"] != "assistant":
        raise BadRow(f"{where}.{given[0]}: only assistant messages have reasoning")
    if len(given) > 1:
        raise BadRow(f"{where} has both {given[0]!r} and {given[1]!r}: keep one")
    if given and not isinstance(message[given[0]], str):
        raise BadRow(f"{where}.{given[0]} must be a string, not {_kind(message[given[0]])}")
    return str(message[given[0]]) if given else ""


def _teaches(message: dict[str, Any], *, where: str) -> bool:
    if message["role"] != "assistant":
        if "weight" in message:
            raise BadRow(f"{where}.weight: only assistant messages have a weight")
        return False
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise BadRow(f"{where}.weight must be 0 or 1, not {weight!r:.40}")
    return bool(weight)


def _content(message: dict[str, Any], *, where: str) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None and message["role"] == "assistant" and message.get("tool_calls"):
        return ""
    if isinstance(content, list):
        return "".join(_text_part(part, where=f"{where}.content[{index}]") for index, part in enumerate(content))
    raise BadRow(f"{where}.content must be a string, not {_kind(content)}")


def _text_part(part: Any, *, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BadRow(f'{where} must be {{"type": "text", "text": ...}}: only text can be trained on')


def _tool_calls(message: dict[str, Any], *, where: str) -> str:
    if message["role"] == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise BadRow(f"{where}.tool_call_id must name the call that this message answers")
    calls = message.get("tool_calls")
    if calls is None:
        return ""
    if message["role"] != "assistant":
        raise BadRow(f"{where}.tool_calls: only the assistant calls tools")
    if not isinstance(calls, list):
        raise BadRow(f"{where}.tool_calls must be a list, not {_kind(calls)}")
    return "".join(_tool_call(call, where=f"{where}.tool_calls[{index}]") for index, call in enumerate(calls))


def _tool_call(call: Any, *, where: str) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f"{where}.function.name must be a string")
    if not isinstance(function.get("arguments", ""), str):
        raise BadRow(f"{where}.function.arguments must be a string of JSON")
    return str(function["name"]) + str(function.get("arguments", ""))


def _tools(row: dict[str, Any], *, where: str = "") -> _Size:
    tools = row.get("tools")
    if not isinstance(row.get("parallel_tool_calls", False), bool):
        raise BadRow(f"{where}parallel_tool_calls must be true or false")
    if tools is None:
        return _Size()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRow(f"{where}tools must be a list of objects")
    return _measure(json.dumps(tools, ensure_ascii=False)) if tools else _Size()


def _text(row: dict[str, Any], key: str) -> _Size:
    if key not in row:
        raise BadRow(f"{key!r} is missing")
    if not isinstance(row[key], str):
        raise BadRow(f"{key!r} must be a string, not {_kind(row[key])}")
    return _measure(row[key])


def _measure(text: str) -> _Size:
    try:
        length_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise BadRow("the text holds half of a surrogate pair, which no encoding can store") from None
    return _Size(len(text), -(-length_bytes // _BYTES_PER_TOKEN), 0)


def _only(value: dict[str, Any], known: frozenset[str], *, where: str = "") -> None:
    for key in value:
        if key not in known:
            raise BadRow(f"unknown key {where}{key!s:.60}{_near([key], known)}")


def _near(keys: Iterable[str], known: Iterable[str]) -> str:
    candidates = sorted(known)
    for key in keys:
        if near := difflib.get_close_matches(str(key)[:60], candidates, n=1):
            return f" (did you mean {near[0]!r}?)"
    return ""


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
