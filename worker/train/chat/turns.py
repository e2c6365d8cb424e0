"""Where each assistant turn begins and ends in the rendered text of a conversation.

A turn is what the model has to write: it begins where the prompt for a reply ends and it ends with the token that ends
a turn. What stands between the words of two messages is the template's: the end of the one, the beginning of the other.
The beginning is what the template writes as a prompt for a reply after the messages before; the end is what it writes
after the turn when nothing follows. Both are learnt once for each kind of neighbour and held against every text.
"""

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from tunesmith.worker.train.chat.anchors import find_anchors
from tunesmith.worker.train.chat.rendered import Place, Rendered, Renderer, TextRun
from tunesmith.worker.train.chat.template import ChatTemplate, TemplateMessage, TemplateRefusal

_TEXT_ATOMS = r"<[^<>\n]{1,80}>|\n|[^<\n]+|<"
# A thought that the prompt opens for the model is part of its turn, as in the marked templates that there are.
_THOUGHT = re.compile(r"<[^<>\s]*(?:think|thought)[^<>\s]*>|<\|channel>thought|<channel\|>|\[/?THINK\]", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """Characters [start, end) of one assistant message; `is_closed`: they end with a token that ends a turn."""

    message: int
    start: int
    end: int
    is_closed: bool


@dataclass(frozen=True)
class _Prompt:
    """What a template writes between the last words and a reply: the `closing` of those words, then the `reply`'s."""

    closing: str
    reply: str


class TurnFinder:
    """Finds the turns of conversations of one template.

    `special_tokens` are all that the tokenizer keeps whole; `stop_tokens` those that end a reply.
    """

    def __init__(self, template: ChatTemplate, *, special_tokens: Sequence[str], stop_tokens: Sequence[str]) -> None:
        self._template, self._stop_tokens = template, frozenset(stop_tokens)
        tokens = sorted({*special_tokens, *stop_tokens} - {""}, key=len, reverse=True)
        self._longest_token = max(map(len, tokens), default=1)
        special = "|".join(re.escape(token) for token in tokens) or r"(?!)"
        self._special = re.compile(special)
        self._atom = re.compile(f"{special}|{_TEXT_ATOMS}")
        self._prompts: dict[Hashable, _Prompt] = {}
        self._endings: dict[Hashable, str] = {}
        self._closings: dict[tuple[str, str], bool] = {}

    def turns(self, rendered: Rendered) -> Iterator[Turn | int]:
        """Every assistant turn in order; instead of one that cannot be found, the index of its message.

        A message is of several turns where a template prints another's words, a tool's, inside of it.
        """
        by_marks = self._by_marks(rendered)
        if by_marks is not None:
            yield from by_marks
            return
        for message in rendered.assistants:
            found = self._by_words(rendered, message)
            if found is None:
                yield self._by_prefix(rendered, message) or message
            else:
                yield from found

    def next_stop(self, rendered: Rendered) -> str | None:
        """The token that begins what follows the last turn, where the model's settings call that one a stop.

        GLM ends no turn: its model stops by beginning the next message, the user's or a tool's.
        """
        role = "tool" if rendered.formed[-1].get("tool_calls") else "user"
        follower = self._template.form([{"role": role, "content": "x"}])
        try:
            longer = Renderer(self._template).render([*rendered.formed, *follower], tools=rendered.tools)
        except TemplateRefusal:
            return None
        runs = longer.runs_of.get(len(rendered.formed))
        if not runs or not runs[0]:
            return None
        last, first = longer.runs[runs[0] - 1].last, longer.runs[runs[0]].first
        found = self._special.findall(longer.text, last.character, first.character)
        return next((token for token in found if token in self._stop_tokens), None)

    def closing_token(self, text: str) -> str | None:
        """The token that stands at the end of a closed turn's text."""
        tail = text[-self._longest_token :]
        return next((found[0] for found in self._special.finditer(tail) if found.end() == len(tail)), None)

    # The template's own marks

    def _by_marks(self, rendered: Rendered) -> list[Turn] | None:
        """None where there are no marks, or an assistant's word lies outside of them."""
        if not rendered.marks:
            return None
        owners: dict[int, int] = {}
        for message in rendered.assistants:
            for index in rendered.runs_of.get(message, ()):
                for place in rendered.runs[index][1:]:
                    mark = _mark_at(rendered, place)
                    if mark is None:
                        return None
                    owners.setdefault(mark, message)
        wordless = iter([message for message in rendered.assistants if message not in rendered.runs_of])
        turns: list[Turn] = []
        for mark, (start, end) in enumerate(rendered.marks):
            before = turns[-1].message if turns else rendered.assistants[0]
            message = owners[mark] if mark in owners else next(wordless, before)
            turns.append(self._closed(rendered.text, message, start, end))
        return turns

    def _closed(self, text: str, message: int, start: int, end: int) -> Turn:
        """A marked turn with the token that ends it, which some templates write outside of their marks."""
        written = start + len(text[start:end].rstrip())
        if self._is_closing(text[start:written]):
            return Turn(message, start, written, is_closed=True)
        stop = self._stop_at(text, end, len(text))
        return Turn(message, start, stop or end, is_closed=stop is not None)

    # Words

    def _by_words(self, rendered: Rendered, message: int) -> list[Turn] | None:
        """From the places of the message's words; None where it has none, or where something unknown is around them."""
        indices = rendered.runs_of.get(message)
        if not indices:
            return None
        turns = []
        for index in indices:
            start = self._start(rendered, index) if index == indices[0] else self._start_again(rendered, index)
            found = self._end(rendered, index) if index == indices[-1] else self._end_before_others(rendered, index)
            if start is None or found is None:
                return None
            turns.append(Turn(message, start, *found))
        return turns

    def _start(self, rendered: Rendered, index: int) -> int | None:
        """Where the prompt for this reply ends."""
        run, limit = rendered.runs[index], rendered.runs[index].first.character
        if not index:
            return self._after_reply(rendered.text, 0, limit)
        before = rendered.runs[index - 1].last
        key = self._neighbours(rendered, run, before)
        for prompt in (self._prompts.get(key), lambda: self._learn_prompt(rendered, run, before, key=key)):
            known = prompt() if callable(prompt) else prompt
            if known is None:
                continue
            for place in _after_own_words(rendered, before):
                start = self._follow_prompt(rendered.text, place, limit, known)
                if start is not None:
                    return start
        return None

    def _neighbours(self, rendered: Rendered, run: TextRun, before: Place) -> Hashable:
        """What decides how a prompt for a reply looks: the messages since the last word, and what that word was of."""
        anchor = rendered.anchor(before)
        roles = tuple(each["role"] for each in rendered.formed[anchor.message : run.message])
        return anchor.field, _blank_end(anchor.rest), roles

    def _learn_prompt(self, rendered: Rendered, run: TextRun, before: Place, *, key: Hashable) -> _Prompt | None:
        earlier = rendered.anchored.messages[: run.message]
        anchor = rendered.anchor(before)
        texts = []
        for for_reply in (True, False):
            try:
                found = find_anchors(self._template.render(earlier, tools=rendered.tools, for_reply=for_reply))
            except TemplateRefusal:  # of a conversation that is cut short
                return None
            if before.number not in found.places:
                return None
            texts.append(_without_own_words(found.text[found.places[before.number] :], anchor.rest))
        asked, told = texts
        closing = told if asked.startswith(told) else asked
        prompt = _Prompt(closing, _without_thought(asked[len(closing) :]))
        if anchor.field != "call":  # what follows the last word of a call is partly the call's own
            self._prompts[key] = prompt
        return prompt

    def _follow_prompt(self, text: str, place: int, limit: int, prompt: _Prompt) -> int | None:
        """Where the prompt ends if it stands at `place`."""
        if not text.startswith(prompt.closing, place, limit):
            after = self._after_reply(text, place, limit)
            # Gemma 4 joins what is said before and after a tool's words with nothing in between.
            return place if after is None and limit - place <= 1 else after
        begun = place + len(prompt.closing)
        start = begun
        for atom in self._atom.findall(prompt.reply):
            if not text.startswith(atom, start, limit):
                break
            start += len(atom)
        missing = prompt.reply[start - begun :]
        if start > begun and not self._has_words(missing):  # a call may be opened otherwise than a text
            return start
        # No prompt here: the turn goes on after a tool's words, or this template leaves the header out.
        return self._after_reply(text, begun, limit) or begun

    def _after_reply(self, text: str, begin: int, limit: int) -> int | None:
        """Behind the last prompt for a reply in text[begin:limit]; the end of one may be missing, without words."""
        atoms = self._atom.findall(self._reply)
        for number in range(len(atoms), 0, -1):
            begun = "".join(atoms[:number])
            if self._has_words(self._reply[len(begun) :]):
                return None
            place = text.rfind(begun, begin, limit)
            if place >= 0:
                return place + len(begun)
        return None

    def _start_again(self, rendered: Rendered, index: int) -> int:
        """After another's words inside of a message: behind the last token that is not text."""
        before, run = rendered.runs[index - 1].last.character, rendered.runs[index]
        tokens = list(self._special.finditer(rendered.text, before, run.first.character))
        return tokens[-1].end() if tokens else run.first.character

    def _end(self, rendered: Rendered, index: int) -> tuple[int, bool] | None:
        """Where the turn ends, and whether with a token that ends it."""
        run, limit = rendered.runs[index], rendered.next_words(index)
        anchor = rendered.anchor(run.last)
        known = self._endings.get((anchor.field, _blank_end(anchor.rest)))
        if known is not None and (anchor.field != "call" or self._stands_whole(rendered, run, known)):
            found = self._end_by(rendered, run, limit, known)
            if found is not None:
                return found
        learnt = self._learn_ending(rendered, run)
        return None if learnt is None else self._end_by(rendered, run, limit, learnt)

    def _stands_whole(self, rendered: Rendered, run: TextRun, ending: str) -> bool:
        """Of another call's ending a part says nothing about this one."""
        return bool(ending) and rendered.text.startswith(ending, run.last.character)

    def _end_by(self, rendered: Rendered, run: TextRun, limit: int, ending: str) -> tuple[int, bool] | None:
        for place in _after_own_words(rendered, run.last):
            found = self._follow_ending(rendered, run, place, limit, ending)
            if found is not None:
                return found
        return None

    def _learn_ending(self, rendered: Rendered, run: TextRun) -> str | None:
        """What the template writes after the turn when nothing follows."""
        text = self._after_last_words(rendered, run)
        if text is None:
            return None
        anchor = rendered.anchor(run.last)
        ending = self._to_last_stop(_without_own_words(text, anchor.rest).rstrip())
        self._endings[anchor.field, _blank_end(anchor.rest)] = ending
        return ending

    def _after_last_words(self, rendered: Rendered, run: TextRun, *, for_reply: bool = False) -> str | None:
        """The text behind a run's last anchor in the conversation that ends with its message, or with a new prompt."""
        if run.message + 1 == len(rendered.formed) and not for_reply:
            return rendered.text[run.last.character :]
        turn = rendered.anchored.messages[: run.message + 1]
        is_call = rendered.anchor(run.last).field == "call"  # which has an ending of its own: learnt anew for many
        for messages in (_shortest(turn), turn) if is_call else (turn,):
            try:
                found = find_anchors(self._template.render(messages, tools=rendered.tools, for_reply=for_reply))
            except TemplateRefusal:
                continue
            if run.last.number in found.places:
                return found.text[found.places[run.last.number] :]
        return None

    def _follow_ending(
        self, rendered: Rendered, run: TextRun, place: int, limit: int, ending: str
    ) -> tuple[int, bool] | None:
        text = rendered.text
        if ending and text.startswith(ending, place):
            end = place + len(ending)
            if self._is_closing(ending):
                return end, True
            stop = self._stop_at(text, end, limit)
            return stop or end, stop is not None
        shared = self._shared_beginning(ending, text, place)
        if shared and self._is_closing(shared):  # behind the last turn some templates end the whole conversation too
            return place + len(shared), True
        return self._end_in_the_middle(rendered, run, place, limit, ends_turns=bool(ending))

    def _end_in_the_middle(
        self, rendered: Rendered, run: TextRun, place: int, limit: int, *, ends_turns: bool
    ) -> tuple[int, bool] | None:
        """In the middle of a conversation some templates end a turn otherwise than at its end, and some not at all."""
        stop = self._stop_at(rendered.text, place, limit)
        if stop is not None:
            return stop, True
        is_joined = limit - place <= 1 and limit < len(rendered.text)
        if is_joined or not ends_turns:
            return place, False
        found = self._special.match(rendered.text, place + _blank(rendered.text, place, limit))
        if found is None:
            return None
        return (found.end(), True) if self._is_closing_here(rendered, run, found[0]) else (place, False)

    def _is_closing_here(self, rendered: Rendered, run: TextRun, token: str) -> bool:
        """Whether the token behind a turn ends it, and begins no message: it also stands before a reply's prompt."""
        key = rendered.anchor(run.last).field, token
        if key not in self._closings:
            following = self._after_last_words(rendered, run, for_reply=True) or ""
            own = _without_own_words(following, rendered.anchor(run.last).rest).lstrip()
            self._closings[key] = own.startswith(token) and not self._reply.startswith(token)
        return self._closings[key]

    def _end_before_others(self, rendered: Rendered, index: int) -> tuple[int, bool] | None:
        """Where the words end before another message's begin, inside of one turn: as far as both texts agree."""
        run, limit = rendered.runs[index], rendered.next_words(index)
        alone = self._after_last_words(rendered, run)
        if alone is None:
            return None
        written = self._shared_beginning(alone, rendered.text[:limit], run.last.character)
        tokens = list(self._special.finditer(written))
        if len(tokens) > 1 and tokens[-2].end() == tokens[-1].start() and tokens[-1][0] not in self._stop_tokens:
            written = written[: tokens[-1].start()]  # it begins the other's words
        return run.last.character + len(written), False

    # Prefixes

    def _by_prefix(self, rendered: Rendered, message: int) -> Turn | None:
        """For a turn without words, or a template that bears no anchors: what comes when the message joins."""
        through = rendered.text
        try:
            before = self._template.render(rendered.formed[:message], tools=rendered.tools, for_reply=True)
            if message + 1 < len(rendered.formed):
                through = self._template.render(rendered.formed[: message + 1], tools=rendered.tools)
        except TemplateRefusal:
            return None
        before = _without_thought(before)
        if not through.startswith(before) or not rendered.text.startswith(through):
            return None
        start, written = len(before), len(through.rstrip())
        if written > start and self._is_closing(through[start:written]):
            return Turn(message, start, written, is_closed=True)
        end = max(start, written)
        stop = self._stop_at(rendered.text, end, len(rendered.text))
        return Turn(message, start, stop or end, is_closed=stop is not None)

    # Tokens

    @cached_property
    def _reply(self) -> str:
        """What the template adds to a conversation to ask for a reply, without the thought that it may open."""
        asked = self._template.form([{"role": "user", "content": "x"}])
        try:
            told = self._template.render(asked)
            with_reply = self._template.render(asked, for_reply=True)
        except TemplateRefusal:
            return ""
        return _without_thought(with_reply[len(told) :]) if with_reply.startswith(told) else ""

    def _to_last_stop(self, ending: str) -> str:
        """Without what some templates always write behind a stop token, as a prompt for a reply."""
        stops = [found.end() for found in self._special.finditer(ending) if found[0] in self._stop_tokens]
        return ending[: stops[-1]] if stops else ending

    def _shared_beginning(self, one: str, text: str, place: int) -> str:
        """What `one` and the text at `place` begin with, in whole atoms, without blank space at its end."""
        end = place
        for atom in self._atom.findall(one):
            if not text.startswith(atom, end):
                break
            end += len(atom)
        return text[place:end].rstrip()

    def _stop_at(self, text: str, place: int, limit: int) -> int | None:
        """The end of the stop token that stands there, behind blank space perhaps."""
        found = self._special.match(text, place + _blank(text, place, limit))
        return found.end() if found and found[0] in self._stop_tokens else None

    def _is_closing(self, text: str) -> bool:
        """Whether the last of it is a token that can end a turn, and not a closing tag such as that of a call."""
        last = next((found[0] for found in self._special.finditer(text) if found.end() == len(text)), None)
        if last is None or last in self._stop_tokens:
            return last is not None
        return not (last.startswith("</") and self._special.fullmatch(f"<{last[2:]}"))

    def _has_words(self, text: str) -> bool:
        """Whether anything but tags and special tokens is in it."""
        return any(atom.strip() and not self._is_tag(atom) for atom in self._atom.findall(text))

    def _is_tag(self, atom: str) -> bool:
        return bool(self._special.fullmatch(atom)) or (atom.startswith("<") and atom.endswith(">"))


def _shortest(turn: Sequence[TemplateMessage]) -> list[TemplateMessage]:
    """The last message with what a template wants before it: what the system says, and the user's last words."""
    system = list(takewhile(lambda message: message["role"] in ("system", "developer"), turn))
    asked = [message for message in turn[:-1] if message["role"] == "user"]
    return [*system, *asked[-1:], turn[-1]]


def _mark_at(rendered: Rendered, place: Place) -> int | None:
    return next((index for index, (start, end) in enumerate(rendered.marks) if start <= place.character <= end), None)


def _after_own_words(rendered: Rendered, place: Place) -> Iterator[int]:
    """Where the words of a field may end: what follows its last anchor is known, but a template may trim it."""
    rest = rendered.anchor(place).rest
    for own in dict.fromkeys((rest, rest.rstrip(), rest.rstrip("\n"))):
        if rendered.text.startswith(own, place.character):
            yield place.character + len(own)


def _without_own_words(text: str, rest: str) -> str:
    """`text` follows the last anchor of a field; what of it is not the field's own."""
    return next((text[len(own) :] for own in (rest, rest.rstrip()) if text.startswith(own)), text)


def _without_thought(prompt: str) -> str:
    """A prompt for a reply up to the thought that it opens, or opens and closes, at its end."""
    end = len(prompt)
    for thought in reversed(list(_THOUGHT.finditer(prompt))):
        if prompt[thought.end() : end].strip():
            break
        end = thought.start()
    return prompt[:end]


def _blank_end(text: str) -> str:
    """The blank space at the end of a field: a template may trim it, so it decides what comes after the words."""
    return text[len(text.rstrip()) :]


def _blank(text: str, place: int, limit: int) -> int:
    """Characters of blank space at `place`."""
    return len(text[place:limit]) - len(text[place:limit].lstrip())
