"""What one training row may be: chat, prompt and completion, plain text, or a pair to prefer from, as typed values.

`tuning.datasets.row_parser` makes them from lines of JSON. The check at upload counts them and the trainer tokenises
them, so neither looks at the keys of a row.
"""

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from tunesmith.tuning.values.json_objects import Json

Role = Literal["system", "developer", "user", "assistant", "tool"]

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")  # by which name depends on who wrote the file


class RowFormat(StrEnum):
    """The shape of every row of one file."""

    CHAT = "chat"
    COMPLETION = "completion"
    TEXT = "text"
    PREFERENCE = "preference"


class ToolCall(NamedTuple):
    """A function that the assistant calls. `arguments` are a text of JSON; `id` is whatever the file has, or None."""

    name: str
    arguments: str = ""
    id: object = None


class Message(NamedTuple):
    """One message, its content as one text.

    weight: 0 or 1, None where the row has none; reasoning: what the assistant thought, in a field of its own, which the
    row calls `reasoning_key`; tool_call_id: the call that a tool's message answers.
    """

    role: Role
    content: str = ""
    name: str | None = None
    weight: int | None = None
    reasoning: str | None = None
    reasoning_key: str = REASONING_KEYS[0]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def is_taught(self) -> bool:
        """Whether the model learns to write it: the assistant's messages, unless their weight is 0."""
        return self.role == "assistant" and self.weight != 0

    @property
    def words(self) -> str:
        """Everything that the message says: reasoning, content, names and arguments of calls."""
        if self.reasoning is None and not self.tool_calls:
            return self.content
        calls = (part for call in self.tool_calls for part in (call.name, call.arguments))
        return "".join([self.reasoning or "", self.content, *calls])


Messages = tuple[Message, ...]


class Chat(NamedTuple):
    """A conversation. `tools` are the definitions that the row lists, as JSON; None where it has no list."""

    messages: Messages
    tools: tuple[Json, ...] | None = None


class Completion(NamedTuple):
    """A text to go on from, and how it goes on, which is taught."""

    prompt: str
    completion: str


class Text(NamedTuple):
    """A text that is taught whole."""

    text: str


class PreferencePair(NamedTuple):
    """One prompt with a preferred and another answer; each part is plain text or messages."""

    prompt: str | Messages
    chosen: str | Messages
    rejected: str | Messages
    tools: tuple[Json, ...] | None = None

    @property
    def sequences(self) -> tuple[Chat | Completion, Chat | Completion]:
        """The prompt with the preferred answer, then with the other. Of the prompt nothing is taught.

        Completions if all parts are plain text; else conversations, in which the user asks and the assistant answers.
        """
        prompt, chosen, rejected, tools = self
        if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
            return Completion(prompt, chosen), Completion(prompt, rejected)
        asked = [message._replace(weight=0) for message in _messages(prompt, role="user")]
        first, second = (_messages(answer, role="assistant") for answer in (chosen, rejected))
        return Chat((*asked, *first), tools), Chat((*asked, *second), tools)


Row = Chat | Completion | Text | PreferencePair

_FORMATS: dict[type[Row], RowFormat] = {
    Chat: RowFormat.CHAT,
    Completion: RowFormat.COMPLETION,
    Text: RowFormat.TEXT,
    PreferencePair: RowFormat.PREFERENCE,
}


def format_of(row: Row) -> RowFormat:
    """The format that a row has."""
    return _FORMATS[type(row)]


def sequences_of(row: Row) -> Iterator[Chat | Completion | Text]:
    """What is tokenised of a row, each by itself: two of a preference pair, the preferred one first, else the row."""
    if isinstance(row, PreferencePair):
        yield from row.sequences
    else:
        yield row


def template_message(message: Message) -> Json:
    """The message as chat templates read it: an object of the API's form, without weight and absent fields."""
    fields = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        message.reasoning_key: message.reasoning,
        "tool_calls": [_template_call(call) for call in message.tool_calls] or None,
    }
    present = {key: value for key, value in fields.items() if value is not None}
    return {"role": message.role, "content": message.content, **present}


def arguments_as_data(arguments: str) -> Any:
    """What the arguments of a call say; the text itself where it is no JSON, or none that can be stored as text."""
    try:
        data = json.loads(arguments or "{}")
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return arguments
    return data


def _template_call(call: ToolCall) -> Json:
    function = {"name": call.name, "arguments": call.arguments}
    return ({} if call.id is None else {"id": call.id}) | {"type": "function", "function": function}


def _messages(part: str | Messages, *, role: Role) -> Messages:
    return (Message(role, part),) if isinstance(part, str) else part
