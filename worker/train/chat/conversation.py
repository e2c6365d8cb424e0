"""From chat messages to text with marked spans: which characters the assistant wrote and the model should learn.

Works for any template. Its own `{% generation %}` marks are taken where it has them; else turns are found by anchors
(`worker.train.chat.turns`). A turn always ends with a token that ends it, added where the template writes none.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from tunesmith.tuning.datasets.row_formats import Chat, Message, ToolCall, arguments_as_data, template_message
from tunesmith.tuning.errors import JobFailure
from tunesmith.tuning.values.json_objects import Json
from tunesmith.worker.train.chat.rendered import Rendered, Renderer
from tunesmith.worker.train.chat.template import ChatTemplate, Span, TemplateMessage, TemplateRefusal, TooSlow
from tunesmith.worker.train.chat.turns import Turn, TurnFinder

_RESULT = "<tool_response>"
DEFAULT_DAY = date(2026, 1, 1)

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + (message['content'] or '') }}"
    "{{ END if message['role'] == 'assistant' else '' }}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

_REPLIES = (
    Message("assistant", "x"),
    Message("assistant", tool_calls=(ToolCall("probe", "{}", id="probe00id"),)),
)


@dataclass(frozen=True)
class MarkedText:
    """Text and the character spans [start, end) that are supervised.

    prompt_end: where a prompt ends whose tokens must be those that it has alone, or 0; stop: a token to put behind the
    text, supervised, because nothing in it ends the reply; end: the token that ends the last reply, `stop` or another,
    where one does and is taught; left_out: fields of assistant messages, such as `reasoning`, whose words the template
    does not print.
    """

    text: str
    spans: tuple[Span, ...]
    prompt_end: int = 0
    stop: str | None = None
    end: str | None = None
    is_endless: bool = False  # the model has no token that could be `stop`
    left_out: frozenset[str] = frozenset()


class UnknownTurn(Exception):
    """The template does not show where the turn of this message begins and ends."""

    def __init__(self, message: int | None) -> None:
        super().__init__(message)
        self.message = message


class ChatRenderer:
    """Renders conversations with one tokenizer's template.

    `stop_tokens` end a reply of this model; without them only the tokenizer's own end-of-sequence token does.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, stop_tokens: Sequence[str] | None = None, today: date = DEFAULT_DAY
    ) -> None:
        self._tokenizer, self._today = tokenizer, today
        own = [tokenizer.eos_token] if tokenizer.eos_token else []
        self.stop_tokens = tuple(own if stop_tokens is None else stop_tokens)
        self.default_template = None if tokenizer.chat_template else default_template(tokenizer, self.stop_tokens)
        if self.default_template is not None:
            tokenizer.chat_template = self.default_template
        self._for_templates: dict[str, _TemplateTools] = {}

    def prompt(self, chat: Chat) -> str:
        """The text after which the assistant's reply begins.

        Raises:
            TemplateRefusal, TooSlow: the template would not render it.
        """
        tools = _listed(chat)
        template = self._template(tools).template
        template.begin_conversation()
        return template.render(self.formed(chat), tools=tools, for_reply=True)

    def formed(self, chat: Chat) -> list[TemplateMessage]:
        """The messages as the template is given them."""
        template = self._template(_listed(chat)).template
        return template.form(_prepare(chat, template=template).messages)

    def mark(self, chat: Chat) -> MarkedText:
        """The whole conversation; every turn that is taught is marked, with its end-of-turn token.

        Raises:
            TemplateRefusal, TooSlow: the template would not render it.
            UnknownTurn: a turn cannot be found in the rendered text.
        """
        tools = _listed(chat)
        parts = self._template(tools)
        parts.template.begin_conversation()
        prepared = _prepare(chat, template=parts.template)
        rendered = parts.renderer.render(parts.template.form(prepared.messages), tools=tools)
        turns = []
        for turn in parts.finder.turns(rendered):
            if isinstance(turn, int):
                raise UnknownTurn(prepared.origins[turn])
            turns.append(turn)
        taught = {
            index
            for index, origin in enumerate(prepared.origins)
            if origin is not None and chat.messages[origin].is_taught
        }
        left_out = frozenset(field for message, field in rendered.left_out() if message in taught)
        spans = [(turn.start, turn.end) for turn in turns if turn.message in taught and turn.end > turn.start]
        is_endless = bool(turns) and not turns[-1].is_closed and not rendered.text[turns[-1].end :].strip()
        if not is_endless or turns[-1].message not in taught:
            end = _end_of(rendered, [turn for turn in turns if turn.message in taught], parts.finder)
            return MarkedText(rendered.text, tuple(spans), end=end, left_out=left_out)
        stop = parts.finder.next_stop(rendered) or next(iter(self.stop_tokens), None)
        text = rendered.text[: turns[-1].end]
        return MarkedText(text, tuple(spans), stop=stop, end=stop, is_endless=stop is None, left_out=left_out)

    def ends(self) -> tuple[str, ...]:
        """Every token by which a reply may end: the model's own, and what the template puts behind words and calls."""
        found = dict.fromkeys(self.stop_tokens)
        for reply in _REPLIES:
            with contextlib.suppress(TemplateRefusal, TooSlow, UnknownTurn, JobFailure):
                end = self.mark(Chat((Message("user", "x"), reply))).end
                found |= {end: None} if end else {}
        return tuple(found)

    def _template(self, tools: list[Json] | None) -> "_TemplateTools":
        """Some tokenizers have a template of its own for conversations with tools."""
        source = str(self._tokenizer.get_chat_template(tools=tools or None))
        if source not in self._for_templates:
            tokens = {name: str(token) for name, token in self._tokenizer.special_tokens_map.items()}
            template = ChatTemplate(source, special_tokens=tokens, today=self._today)
            known = [str(token) for token in self._tokenizer.added_tokens_decoder.values()]
            special = [*known, *map(str, self._tokenizer.all_special_tokens)]
            finder = TurnFinder(template, special_tokens=special, stop_tokens=self.stop_tokens)
            self._for_templates[source] = _TemplateTools(template, Renderer(template), finder)
        return self._for_templates[source]


@dataclass(frozen=True)
class _TemplateTools:
    template: ChatTemplate
    renderer: Renderer
    finder: TurnFinder


def default_template(tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str]) -> str:
    """For models that come without one: ChatML if its tokens are known, else names and the model's own end token."""
    known = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    if {"<|im_start|>", "<|im_end|>"} <= known:
        return _CHATML
    return _PLAIN.replace("END", json.dumps(next(iter(stop_tokens), "")))


def _end_of(rendered: Rendered, turns: Sequence[Turn], finder: TurnFinder) -> str | None:
    """Of the last message alone: in the middle of a conversation GPT-OSS ends replies by what also ends thoughts."""
    last = turns[-1] if turns else None
    if last is None or last.message + 1 != len(rendered.formed) or not last.is_closed:
        return None
    return finder.closing_token(rendered.text[last.start : last.end])


def _listed(chat: Chat) -> list[Json] | None:
    """The tools as templates take them; some tell an empty list from none."""
    return None if chat.tools is None else list(chat.tools)


class _Prepared(NamedTuple):
    """Messages that the template prints, and which message of the row each of them is; None for one that was added."""

    messages: list[TemplateMessage]
    origins: list[int | None]


def _prepare(chat: Chat, *, template: ChatTemplate) -> _Prepared:
    """What the template would not print of tools becomes text: their list, calls and results."""
    prepared = _Prepared([], [])
    for origin, message in enumerate(chat.messages):
        if message.role == "tool" and not template.prints_tool_results:
            _add_result(prepared, origin, message.content)
        elif message.role == "user" and _is_result(prepared):
            _add_to_user(prepared, origin, message.content)
        else:
            prepared.messages.append(_prepare_message(message, prints_calls=template.prints_calls))
            prepared.origins.append(origin)
    if chat.tools and not template.takes_tools:
        _add_listing(prepared, chat.tools, prints_system=template.prints_system)
    return prepared


def _add_result(prepared: _Prepared, origin: int, content: str) -> None:
    """As a message of the user's, one with others beside it: templates without tools often want turns to alternate."""
    _add_to_user(prepared, origin, f"{_RESULT}\n{content}\n</tool_response>")


def _is_result(prepared: _Prepared) -> bool:
    """Whether the last message is a tool's result that became the user's."""
    last = prepared.messages[-1] if prepared.messages else {}
    return last.get("role") == "user" and last["content"].startswith(_RESULT)


def _add_to_user(prepared: _Prepared, origin: int, content: str) -> None:
    before = prepared.messages[-1] if prepared.messages else {}
    if before.get("role") == "user":
        before["content"] += f"\n{content}"
        return
    prepared.messages.append({"role": "user", "content": content})
    prepared.origins.append(origin)


def _add_listing(prepared: _Prepared, tools: Sequence[Json], *, prints_system: bool) -> None:
    """To the system message if there can be one, else before the first words of the user."""
    listing = "You may call these functions:\n" + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    first: TemplateMessage = prepared.messages[0] if prepared.messages else {"role": None}
    if first["role"] in ("system", "developer"):
        first["content"] = f"{first['content']}\n\n{listing}"
    elif first["role"] == "user" and not prints_system:
        first["content"] = f"{listing}\n\n{first['content']}"
    else:
        prepared.messages.insert(0, {"role": "system", "content": listing})
        prepared.origins.insert(0, None)


def _prepare_message(message: Message, *, prints_calls: bool) -> TemplateMessage:
    if prints_calls or not message.tool_calls:
        return template_message(message)
    calls = [{"name": call.name, "arguments": arguments_as_data(call.arguments)} for call in message.tool_calls]
    lines = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    content = "\n".join([message.content, *lines]).strip()
    return template_message(message._replace(content=content, tool_calls=()))
