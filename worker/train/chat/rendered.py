"""A rendered conversation with the place of every message's words in it, as far as anchors tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from tunesmith.worker.train.chat.anchors import (
    LEVELS,
    Anchor,
    AnchoredConversation,
    TemplateMessage,
    find_anchors,
    has_reserved_characters,
    place_anchors,
)
from tunesmith.worker.train.chat.template import ChatTemplate, Span, TemplateRefusal


class Place(NamedTuple):
    """Where an anchor is: its number, and the character that it stands before."""

    number: int
    character: int


class TextRun(NamedTuple):
    """A stretch of the text with the words of one message and of no other, from its first anchor to its last."""

    message: int
    first: Place
    last: Place


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation. `marks` are the template's own; `places` is {number of an anchor: character}.

    `formed` is the conversation in its template's form, `anchored` the same with anchors.
    """

    text: str
    formed: Sequence[TemplateMessage]
    tools: list[Any] | None
    marks: tuple[Span, ...]
    anchored: AnchoredConversation
    places: dict[int, int]

    @property
    def assistants(self) -> list[int]:
        """Indices of the assistant's messages."""
        return [index for index, message in enumerate(self.formed) if message["role"] == "assistant"]

    def anchor(self, place: Place) -> Anchor:
        """What stands at a place."""
        return self.anchored.anchors[place.number]

    @cached_property
    def runs(self) -> list[TextRun]:
        """All stretches of words, in the order of the text."""
        places = sorted((Place(*item) for item in self.places.items()), key=lambda place: place.character)
        runs = []
        for message, group in groupby(places, key=lambda place: self.anchor(place).message):
            members = list(group)
            runs.append(TextRun(message, members[0], members[-1]))
        return runs

    @cached_property
    def runs_of(self) -> dict[int, list[int]]:
        """Indices into `runs` by message; more than one where another message's words stand inside of it."""
        found: dict[int, list[int]] = {}
        for index, run in enumerate(self.runs):
            found.setdefault(run.message, []).append(index)
        return found

    def next_words(self, run: int) -> int:
        """The character at which the words after this run begin, or the end of the text."""
        return self.runs[run + 1].first.character if run + 1 < len(self.runs) else len(self.text)

    def left_out(self) -> set[tuple[int, str]]:
        """(message, field) of words that the template did not print, all of them or a stretch."""
        if not self.places:
            return set()
        return {
            (anchor.message, anchor.field)
            for number, anchor in enumerate(self.anchored.anchors)
            if number not in self.places
        }


class Renderer:
    """Renders conversations with as many anchors as their template bears."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template

    def render(self, formed: Sequence[TemplateMessage], *, tools: list[Any] | None) -> Rendered:
        """The text, its marks, and where each message's words are.

        Raises:
            TemplateRefusal: the template would not render it.
        """
        text, marks = self._text(formed, tools=tools)
        for level in () if has_reserved_characters(text) else LEVELS:
            anchored = place_anchors(formed, level)
            try:
                found = find_anchors(self._template.render(anchored.messages, tools=tools))
            except TemplateRefusal:
                continue
            if found.text == text:
                return Rendered(text, formed, tools, marks, anchored, found.places)
        return Rendered(text, formed, tools, marks, AnchoredConversation(list(formed)), {})

    def _text(self, formed: Sequence[TemplateMessage], *, tools: list[Any] | None) -> tuple[str, tuple[Span, ...]]:
        if not self._template.has_marks:
            return self._template.render(formed, tools=tools), ()
        text, marks = self._template.render_marked(formed, tools=tools)
        return text, tuple(marks)
