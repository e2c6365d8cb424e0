"""A model's chat template: rendered in the sandbox, within limits, in the form that this template reads.

Templates differ in what they take: arguments of a call as an object or as text, content as text or as a list of parts,
a role `developer` or not. Each is asked once with a short conversation and from then on given what it prints.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import cached_property
from time import monotonic
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.row_formats import arguments_as_data
from tunesmith.worker.train.chat.template_limits import TookTooLong, bounded
from tunesmith.worker.train.failures import user_error

TemplateMessage = dict[str, Any]
Span = tuple[int, int]

MOST_CHARACTERS = 1_000_000  # the longest of the known templates have 20,000
RENDER_SECONDS = 30.0
RENDER_BYTES = 2 * 1024**3
MOST_RENDERED_CHARACTERS = 64 * 1024**2  # of one conversation: four times the longest request
CONVERSATION_SECONDS = 120.0  # for all of one: some are only understood by a rendering for every message
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE_FUNCTION = {"name": "probe_name", "arguments": {"probe_key": "probe_value"}}
_PROBE_USER: TemplateMessage = {"role": "user", "content": "probe_text"}
_PROBE_CALLING: TemplateMessage = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "probe00id", "type": "function", "function": _PROBE_FUNCTION}],
}
_PROBE_TOOLS = [{"type": "function", "function": {"name": "probe_name", "description": "", "parameters": {}}}]


class TemplateRefusal(Exception):
    """The template would not render a conversation; the text says why, in the template's words where it has some."""


class TooSlow(Exception):
    """One conversation took too long with all of its renderings; no other way to render it would help."""

    def __init__(self) -> None:
        super().__init__(f"one conversation took more than {CONVERSATION_SECONDS:.0f} seconds")


@dataclass(frozen=True)
class _Form:
    """In what form a template takes messages: arguments of a call as text or object, content of a message that only
    calls as an empty text or none, content in parts."""

    in_parts: bool = False
    arguments_as_text: bool = False
    call_content: str | None = ""


class ChatTemplate:
    """One template with its tokenizer's special tokens. `today` is the day that it prints, if it prints one."""

    def __init__(self, source: str, *, special_tokens: Mapping[str, str], today: date) -> None:
        """Compile the template.

        Raises:
            JobFailure: `broken_chat_template`, of a template that is enormous or does not compile.
        """
        if len(source) > MOST_CHARACTERS:
            raise broken_template(f"it has {len(source):,} characters, {MOST_CHARACTERS:,} are allowed")
        self._source, self._special_tokens = source, dict(special_tokens)
        try:
            with bounded(seconds=RENDER_SECONDS, extra_bytes=RENDER_BYTES):
                compiled = _compile_jinja_template(source)
        except (jinja2.TemplateError, TookTooLong, MemoryError, RecursionError) as error:
            raise broken_template(f"it does not compile ({_words(error)})") from error
        self._began = monotonic()
        self._globals, self._today = compiled.globals, datetime.combine(today, time())

    def begin_conversation(self) -> None:
        """From here on there are `CONVERSATION_SECONDS` again."""
        self._began = monotonic()

    @property
    def has_marks(self) -> bool:
        """Whether the template itself marks what the assistant wrote, by `{% generation %}`."""
        return bool(_MARK.search(self._source))

    @property
    def takes_tools(self) -> bool:
        """Whether the template lists tools."""
        return "tools" in self._source

    @cached_property
    def prints_system(self) -> bool:
        """Whether it prints a system message."""
        return self._prints("probe_system", [{"role": "system", "content": "probe_system"}, _PROBE_USER])

    @cached_property
    def prints_calls(self) -> bool:
        """Whether it prints tool calls of an assistant's message."""
        return self._prints_calls(self._form)

    @cached_property
    def prints_tool_results(self) -> bool:
        """Whether it prints what a tool answered."""
        turn = _PROBE_CALLING if self.prints_calls else {"role": "assistant", "content": "probe_text"}
        result = {"role": "tool", "content": "probe_result", "tool_call_id": "probe00id", "name": "probe_name"}
        closing = {"role": "assistant", "content": "probe_text"}
        return self._prints("probe_result", [_PROBE_USER, turn, result, closing], tools=_PROBE_TOOLS)

    def form(self, messages: Sequence[TemplateMessage]) -> list[TemplateMessage]:
        """The messages as this template reads them: what `render` takes."""
        return [self._formed(message, self._form) for message in messages]

    def render(
        self, formed: Sequence[TemplateMessage], *, tools: list[Any] | None = None, for_reply: bool = False
    ) -> str:
        """The text of a conversation, with what comes before a reply if it is one `for_reply`.

        Raises:
            TemplateRefusal: the template raised, used too much time or memory, or wrote too much.
            TooSlow: too long after the conversation began.
        """
        return self._render(formed, tools=tools, for_reply=for_reply)[0]

    def render_marked(
        self, formed: Sequence[TemplateMessage], *, tools: list[Any] | None = None
    ) -> tuple[str, list[Span]]:
        """The text, and the character spans [start, end) that the template marks.

        Raises:
            TemplateRefusal, TooSlow: as `render`.
        """
        return self._render(formed, tools=tools, with_marks=True)

    def _render(
        self,
        messages: Sequence[TemplateMessage],
        *,
        tools: list[Any] | None = None,
        for_reply: bool = False,
        with_marks: bool = False,
    ) -> tuple[str, list[Span]]:
        self._globals["strftime_now"] = self._today.strftime  # the same job renders the same text on any day
        if monotonic() - self._began > CONVERSATION_SECONDS:
            raise TooSlow
        try:
            with bounded(seconds=RENDER_SECONDS, extra_bytes=RENDER_BYTES):
                texts, marks = render_jinja_template(
                    conversations=[list(messages)],
                    tools=tools if self.takes_tools else None,
                    chat_template=self._source,
                    add_generation_prompt=for_reply,
                    return_assistant_tokens_mask=with_marks,
                    **self._special_tokens,
                )
        except TookTooLong as error:
            raise TemplateRefusal(f"it took more than {RENDER_SECONDS:.0f} seconds") from error
        except MemoryError as error:
            raise TemplateRefusal(f"it took more than {RENDER_BYTES / 1024**3:.0f} GiB of memory") from error
        except Exception as error:  # only the template's own code runs in there
            raise TemplateRefusal(_words(error)) from error
        if len(texts[0]) > MOST_RENDERED_CHARACTERS:
            raise TemplateRefusal(f"it wrote {len(texts[0]):,} characters, {MOST_RENDERED_CHARACTERS:,} are allowed")
        return str(texts[0]), list(marks[0]) if marks else []

    def _formed(self, message: TemplateMessage, form: _Form) -> TemplateMessage:
        formed = dict(message)
        if formed["role"] == "developer" and "developer" not in self._source:
            formed["role"] = "system"
        if calls := formed.get("tool_calls"):
            formed["tool_calls"] = [_formed_call(call, as_text=form.arguments_as_text) for call in calls]
            if not formed.get("content"):
                formed["content"] = form.call_content
        if form.in_parts and isinstance(formed.get("content"), str):
            formed["content"] = [{"type": "text", "text": formed["content"]}]
        return {key: value for key, value in formed.items() if value is not None}

    @cached_property
    def _form(self) -> _Form:
        in_parts = not self._prints("probe_text", [_PROBE_USER], form=_Form()) and self._prints(
            "probe_text", [_PROBE_USER], form=_Form(in_parts=True)
        )
        forms = [
            _Form(in_parts, arguments_as_text, call_content)
            for call_content in ("", None)
            for arguments_as_text in (False, True)
        ]
        return next((form for form in forms if self._prints_calls(form)), forms[0])

    def _prints_calls(self, form: _Form) -> bool:
        """Whether name and arguments of a call come out, and neither in Python's notation nor as a text in a text."""
        try:
            text = self._probe([_PROBE_USER, _PROBE_CALLING], form=form, tools=_PROBE_TOOLS)
        except TemplateRefusal:
            return False
        turn = text[text.rfind("probe_text") :]
        return "probe_name" in turn and "probe_value" in turn and "{'" not in turn and '\\"probe' not in turn

    def _prints(
        self, wanted: str, messages: list[TemplateMessage], *, form: _Form | None = None, tools: list[Any] | None = None
    ) -> bool:
        try:
            return wanted in self._probe(messages, form=form or self._form, tools=tools)
        except TemplateRefusal:
            return False

    def _probe(self, messages: list[TemplateMessage], *, form: _Form, tools: list[Any] | None) -> str:
        return self._render([self._formed(message, form) for message in messages], tools=tools)[0]


def broken_template(problem: str) -> Exception:
    """The error for a template that no row can be rendered with."""
    return user_error(
        ErrorCode.BROKEN_CHAT_TEMPLATE,
        f"The chat template of the base model cannot be used: {problem}.",
        hint="Register the model again with a template that transformers can render.",
        param="model",
    )


def _formed_call(call: dict[str, Any], *, as_text: bool) -> dict[str, Any]:
    """The API carries arguments as a text of JSON; most templates print them from an object."""
    function = dict(call["function"])
    arguments = function.get("arguments", "")
    if as_text and not isinstance(arguments, str):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    if not as_text and isinstance(arguments, str):
        function["arguments"] = arguments_as_data(arguments)
    return {**call, "function": function}


def _words(error: BaseException) -> str:
    """What the template said itself, or else the kind of error with its text."""
    text = " ".join(str(error).split())[:300]
    if type(error) is jinja2.TemplateError and text:
        return text
    if isinstance(error, jinja2.exceptions.SecurityError):
        return f"it tries what a template may not: {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
