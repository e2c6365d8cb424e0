"""From a line of JSON to a typed row, or to the reason why it is none: the one place where rows are understood.

Formats, in the order in which they are recognised (keys in brackets are optional):

    chat        {"messages": [{role, content, [name, weight, tool_calls, tool_call_id, reasoning_content]}],
                 [tools, parallel_tool_calls]}
    preference  {"input": {"messages", ...}, "preferred_output": [message], "non_preferred_output": [message]}
                or {"prompt": ..., "chosen": ..., "rejected": ...} with strings or messages
    completion  {"prompt": str, "completion": str}
    text        {"text": str}
"""

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from tunesmith.tuning.datasets.message_parser import CHAT_KEYS, parse_chat, parse_messages
from tunesmith.tuning.datasets.row_errors import BadRow, NothingToLearn, kind_of, near_key, refuse_unknown_keys
from tunesmith.tuning.datasets.row_formats import (
    Chat,
    Completion,
    Messages,
    PreferencePair,
    Row,
    RowFormat,
    Text,
    format_of,
)
from tunesmith.tuning.values.json_objects import Json

T = TypeVar("T")

MAX_ROW_BYTES = 2 * 1024 * 1024  # half a million tokens; more in one piece would be read without a pause
# An escape for half of a surrogate pair without the other half beside it. Escaped backslashes deceive it: what it finds
# may be none, but it misses none.
_HALF_A_PAIR = re.compile(
    r"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|[c-fC-F](?<![^\\]\\u[dD][89abAB]..\\u[dD][c-fC-F]))"
)


class RowReader:
    """Parses the lines of one file, all of which are rows of one `format`: None before the first good one."""

    def __init__(self, *, max_row_bytes: int = MAX_ROW_BYTES) -> None:
        self._max_row_bytes = max_row_bytes
        self.format: RowFormat | None = None

    def read(self, line: bytes, *, number: int) -> Row | None:
        """The row of a line without its line feed; lines are numbered from 1. None where it is blank.

        Raises:
            BadRow: it is no row, or one of another format than those before.
        """
        row = parse_row(line, number=number, max_row_bytes=self._max_row_bytes)
        if row is None:
            return None
        found = format_of(row)
        if self.format is None:
            self.format = found
        if found is not self.format:
            reason = f"this is a {found} row in a file of {self.format} rows"
            raise BadRow(reason, fix="Put rows of each format into a file of their own.", line=number)
        return row


def parse_row(line: bytes, *, number: int, max_row_bytes: int = MAX_ROW_BYTES) -> Row | None:
    """The row of a line without its line feed; the first line is number 1. None where it is blank.

    Raises:
        BadRow: with number, reason and fix.
    """
    return _parsed(line, _recognised, number=number, max_row_bytes=max_row_bytes)


def parse_prompt(line: bytes, *, number: int) -> Chat | str | None:
    """A line that asks a model: a conversation, or the text of a `prompt`; other keys do not matter. None if blank.

    Raises:
        BadRow: with number, reason and fix.
    """
    return _parsed(line, _prompt, number=number, max_row_bytes=MAX_ROW_BYTES)


def too_long(max_row_bytes: int) -> BadRow:
    """The error for a row of more bytes than that."""
    mebibytes = max_row_bytes / 1024**2
    limit = f"{mebibytes:.0f} MiB" if mebibytes >= 1 else f"{max_row_bytes:,} bytes"
    return BadRow(f"the row is longer than {limit}", fix="Split it into several rows.")


def _parsed(line: bytes, recognise: Callable[[Json], T], *, number: int, max_row_bytes: int) -> T | None:
    try:
        if len(line) > max_row_bytes:
            raise too_long(max_row_bytes)
        value = _object(line, number=number)
        return None if value is None else recognise(value)
    except BadRow as bad:
        bad.line = number
        raise


def _object(line: bytes, *, number: int) -> Json | None:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        return None
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        hint = "; the file looks like UTF-16" if b"\x00" in line[:4] or line[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        reason = f"not UTF-8: byte 0x{line[error.start]:02x} at position {error.start}{hint}"
        raise BadRow(reason, fix="Save the file as UTF-8 and upload it again.") from None
    value = _decoded(text)
    if not isinstance(value, dict):
        raise BadRow(f"a row must be a JSON object, not {kind_of(value)}")
    return value


def _decoded(text: str) -> Any:
    try:
        value = _DECODER.decode(text)
        can_be_stored = not _HALF_A_PAIR.search(text) or _can_be_stored(value)
    except json.JSONDecodeError as error:
        raise BadRow(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BadRow("not valid JSON: nested too deeply") from None
    except BadRow:
        raise
    except ValueError:
        raise BadRow("not valid JSON: a number with too many digits") from None
    if not can_be_stored:
        raise BadRow("the text holds half of a surrogate pair, which no encoding can store")
    return value


def _can_be_stored(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise BadRow(f"not valid JSON: {name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _prompt(value: Json) -> Chat | str:
    if "messages" in value:
        return parse_chat(value)
    if "prompt" in value:
        return _text(value, "prompt")
    raise BadRow("the prompt has neither 'messages' nor 'prompt'")


def _recognised(row: Json) -> Row:
    for marker, read in _READERS.items():
        if marker in row:
            return read(row)
    wanted = "'messages', 'prompt' and 'completion', 'text', or 'input' with 'preferred_output'"
    raise BadRow(f"the row has none of {wanted}{near_key(row, _READERS)}")


def _chat(row: Json) -> Chat:
    refuse_unknown_keys(row, CHAT_KEYS)
    chat = parse_chat(row)
    if not any(message.role == "assistant" for message in chat.messages):
        raise NothingToLearn("there is no assistant message")
    if not any(message.is_taught and message.words for message in chat.messages):
        raise NothingToLearn("every assistant message is empty or has weight 0")
    return chat


def _completion_or_pair(row: Json) -> Completion | PreferencePair:
    if "chosen" in row or "rejected" in row:
        return _chosen_and_rejected(row)
    refuse_unknown_keys(row, frozenset({"prompt", "completion"}))
    prompt, completion = _text(row, "prompt"), _text(row, "completion")
    if not completion:
        raise NothingToLearn("'completion' is empty")
    return Completion(prompt, completion)


def _plain_text(row: Json) -> Text:
    refuse_unknown_keys(row, frozenset({"text"}))
    text = _text(row, "text")
    if not text:
        raise NothingToLearn("'text' is empty")
    return Text(text)


def _preferred_and_not(row: Json) -> PreferencePair:
    refuse_unknown_keys(row, frozenset({"input", "preferred_output", "non_preferred_output"}))
    if not isinstance(row["input"], dict):
        raise BadRow(f"'input' must be an object with 'messages', not {kind_of(row['input'])}")
    refuse_unknown_keys(row["input"], CHAT_KEYS, where="input.")
    asked = parse_chat(row["input"], where="input.")
    chosen, rejected = (_answer(row.get(key), key) for key in ("preferred_output", "non_preferred_output"))
    return _two_answers(PreferencePair(asked.messages, chosen, rejected, asked.tools))


def _chosen_and_rejected(row: Json) -> PreferencePair:
    refuse_unknown_keys(row, frozenset({"prompt", "chosen", "rejected"}))
    prompt, chosen, rejected = (_text_or_messages(row.get(key), key) for key in ("prompt", "chosen", "rejected"))
    return _two_answers(PreferencePair(prompt, chosen, rejected))


def _two_answers(pair: PreferencePair) -> PreferencePair:
    for answer in (pair.chosen, pair.rejected):
        if not (answer if isinstance(answer, str) else any(message.words for message in answer)):
            raise BadRow("both answers of a preference row must say something")
    return pair


def _missing(key: str) -> Callable[[Json], NoReturn]:
    def refuse(_row: Json) -> NoReturn:
        raise BadRow(f"{key!r} is missing")

    return refuse


_READERS: dict[str, Callable[[Json], Row]] = {
    "messages": _chat,
    "input": _preferred_and_not,
    "prompt": _completion_or_pair,
    "completion": _missing("prompt"),
    "chosen": _missing("prompt"),
    "preferred_output": _missing("input"),
    "text": _plain_text,
}


def _answer(value: Any, key: str) -> Messages:
    messages = parse_messages(value, where=key)
    if any(message.role != "assistant" for message in messages):
        raise BadRow(f"{key!r} may only hold assistant messages")
    return messages


def _text_or_messages(value: Any, key: str) -> str | Messages:
    return value if isinstance(value, str) else parse_messages(value, where=key)


def _text(row: Json, key: str) -> str:
    if key not in row:
        raise BadRow(f"{key!r} is missing")
    if not isinstance(row[key], str):
        raise BadRow(f"{key!r} must be a string, not {kind_of(row[key])}")
    return str(row[key])
