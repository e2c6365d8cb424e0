"""Invisible anchors in a conversation: where the words of each message end up in the rendered text.

An anchor is a number written in characters that Unicode reserves for a program's own use (noncharacters, Unicode
16.0 section 23.7), put between the characters of a message, never inside a tag such as `<think>`, which templates look
for. The rendered text without its anchors must be the text that is rendered without any.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tunesmith.tuning.datasets.row_formats import REASONING_KEYS

TemplateMessage = dict[str, Any]
Field = Literal["content", "reasoning", "call"]

_DIGITS = "".join(chr(0xFDD0 + digit) for digit in range(10))
_FROM_NUMBER, _TO_NUMBER = str.maketrans("0123456789", _DIGITS), str.maketrans(_DIGITS, "0123456789")
_OPEN, _CLOSE = "\ufdee", "\ufdef"
_ANCHOR = re.compile(f"{_OPEN}([{_DIGITS}]+){_CLOSE}")
_RESERVED = re.compile(f"[{_DIGITS}{_OPEN}{_CLOSE}]")
_TAG = re.compile(r"<[^<>\n]{1,80}>|\[/?[A-Z_]+\]")
_THOUGHT_ENDS = "</think>"


@dataclass(frozen=True)
class Anchor:
    """A place in a message. `part` numbers the stretches of a field that a template may treat apart; `rest` is what of
    the field follows the anchor, where that is known."""

    message: int
    field: Field
    part: int
    rest: str = ""


@dataclass(frozen=True)
class Level:
    """What gets anchors: a template that tests a text for being empty, or for a name, prints another text with them."""

    empty_texts: bool = True
    names: bool = True
    arguments: bool = True
    other_roles: bool = True


LEVELS = (
    Level(),
    Level(empty_texts=False),
    Level(empty_texts=False, names=False),
    Level(empty_texts=False, names=False, arguments=False),
    Level(empty_texts=False, names=False, arguments=False, other_roles=False),
)


@dataclass
class AnchoredConversation:
    """Messages with anchors in them, and what each anchor stands for, by its number."""

    messages: list[TemplateMessage] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)


@dataclass(frozen=True)
class FoundAnchors:
    """A rendered text without its anchors, and where each was: {number: character}, the first place of each."""

    text: str
    places: dict[int, int]


def has_reserved_characters(text: str) -> bool:
    """Whether a text holds characters that anchors are written in."""
    return bool(_RESERVED.search(text))


def place_anchors(formed: Sequence[TemplateMessage], level: Level) -> AnchoredConversation:
    """Anchor every message of a conversation that is in the form its template reads."""
    placed = AnchoredConversation()
    for index, message in enumerate(formed):
        placed.messages.append(_Placer(placed.anchors, index, level).message(message))
    return placed


def find_anchors(rendered: str) -> FoundAnchors:
    """Take the anchors out of a rendered text."""
    pieces: list[str] = []
    places: dict[int, int] = {}
    end = length = 0
    for found in _ANCHOR.finditer(rendered):
        pieces.append(rendered[end : found.start()])
        length += len(pieces[-1])
        places.setdefault(_number(found[1]), length)
        end = found.end()
    return FoundAnchors("".join([*pieces, rendered[end:]]), places)


def _number(digits: str) -> int:
    return int(digits.translate(_TO_NUMBER))


class _Placer:
    """Puts anchors into one message."""

    def __init__(self, anchors: list[Anchor], index: int, level: Level) -> None:
        self._anchors, self._index, self._level = anchors, index, level

    def message(self, message: TemplateMessage) -> TemplateMessage:
        is_assistant = message["role"] == "assistant"
        if not is_assistant and not self._level.other_roles:
            return message
        anchored = dict(message)
        for key in REASONING_KEYS:
            if isinstance(anchored.get(key), str):
                anchored[key] = self._text(anchored[key], "reasoning")
        calls = anchored.get("tool_calls")
        if "content" in anchored:
            anchored["content"] = self._content(anchored["content"], may_be_empty=not calls)
        if calls:
            anchored["tool_calls"] = [self._call(call, number) for number, call in enumerate(calls)]
        return anchored

    def _content(self, content: Any, *, may_be_empty: bool) -> Any:
        if isinstance(content, str):
            return self._text(content, "content", may_be_empty=may_be_empty)
        return [{**part, "text": self._text(part["text"], "content", may_be_empty=may_be_empty)} for part in content]

    def _text(self, text: str, kind: Field, *, may_be_empty: bool = True) -> str:
        """Anchors after the first and the last character that a template cannot trim, and where a thought ends."""
        if not text.strip():
            return text + self._new(kind, 0) if self._level.empty_texts and may_be_empty else text
        places = sorted(set(_places(text)))
        parts, before = [], 0
        for part, place in enumerate(places):
            rest = text[place:] if place == places[-1] else ""
            parts += [text[before:place], self._new(kind, part, rest=rest)]
            before = place
        return "".join([*parts, text[before:]])

    def _call(self, call: dict[str, Any], number: int) -> dict[str, Any]:
        function = dict(call["function"])
        if self._level.names and function.get("name"):
            function["name"] += self._new("call", number)
        if self._level.arguments:
            function["arguments"] = self._arguments(function.get("arguments"), number)
        return {**call, "function": function}

    def _arguments(self, arguments: Any, number: int) -> Any:
        """The last text in them: the last value if it is one, else the last key."""
        if isinstance(arguments, str):
            end = arguments.rstrip()
            return f"{end[:-1]}{self._new('call', number)}{end[-1:]}{arguments[len(end) :]}"
        if not isinstance(arguments, dict) or not arguments:
            return arguments
        *others, (key, value) = arguments.items()
        if isinstance(value, str) and value.strip():
            end = value.rstrip()
            return dict(others) | {key: f"{end}{self._new('call', number)}{value[len(end) :]}"}
        return dict(others) | {f"{key}{self._new('call', number)}": value}

    def _new(self, kind: Field, part: int, *, rest: str = "") -> str:
        self._anchors.append(Anchor(self._index, kind, part, rest))
        digits = str(len(self._anchors) - 1).translate(_FROM_NUMBER)
        return f"{_OPEN}{digits}{_CLOSE}"


def _places(text: str) -> Iterator[int]:
    """Behind the first and the last visible character outside of tags, of a thought and of what follows it."""
    thought_end = text.find(_THOUGHT_ENDS)
    halves = [(0, len(text))] if thought_end < 0 else [(0, thought_end), (thought_end + len(_THOUGHT_ENDS), len(text))]
    for start, end in halves:
        visible = list(_visible_stretches(text, start, end))
        if visible:
            yield visible[0][0] + 1
            yield visible[-1][1]


def _visible_stretches(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the visible characters between tags: the first and the last such stretch are enough."""
    bounds = [start]
    for tag in _TAG.finditer(text, start, end):
        bounds += [tag.start(), tag.end()]
    bounds.append(end)
    for first, last in zip(bounds[::2], bounds[1::2], strict=True):
        stretch = text[first:last]
        if stretch.strip():
            yield first + len(stretch) - len(stretch.lstrip()), first + len(stretch.rstrip())
