"""From chat messages to text with marked spans: which characters the assistant wrote and the model should learn.

Works for any template without `{% generation %}` marks. What the assistant wrote in turn i is what the template adds
when turn i joins the conversation, less the header that a prompt for a reply already ends with.
"""

import contextlib
import json
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from worker.train.failures import user_error

Message = dict[str, Any]
Span = tuple[int, int]

# For models that come without a template: ChatML, the most common layout.
DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '') + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


STAND_IN = "\u2063stand-in for a turn\u2063"


@dataclass(frozen=True)
class MarkedText:
    """Text and the character spans [start, end) that are supervised."""

    text: str
    spans: tuple[Span, ...]


class ChatRenderer:
    """Renders conversations with one tokenizer's template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.uses_default_template = tokenizer.chat_template is None
        if self.uses_default_template:
            tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        template = str(tokenizer.chat_template)
        self._knows_tools = "tools" in template
        self._knows_tool_calls = "tool_calls" in template
        self._special_tokens = tuple(
            sorted(
                {str(token) for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
            )
        )

    def prompt(self, messages: list[Message], *, tools: list[Any] | None = None) -> str:
        """The text after which the assistant's reply begins."""
        prepared = self._prepare(messages, tools=tools)
        return self._render(prepared, tools=tools, for_reply=True)

    def mark(self, messages: list[Message], *, tools: list[Any] | None = None) -> MarkedText:
        """The whole conversation; every assistant turn of weight 1 (the default) is marked, with its end-of-turn token.

        Raises:
            JobFailure: `chat_template_unsupported` when a turn cannot be found in the rendered text.
        """
        prepared = self._prepare(messages, tools=tools)
        text = self._render(prepared, tools=tools)
        spans: list[Span] = []
        added = len(prepared) - len(messages)  # a system message that lists the tools
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start, end = self._turn(prepared, index + added, text=text, tools=tools)
            if message.get("weight", 1) != 0 and end > start:
                spans.append((start, end))
        return MarkedText(text, tuple(spans))

    def _turn(self, messages: list[Message], index: int, *, text: str, tools: list[Any] | None) -> Span:
        for search in (self._turn_by_prefix, self._turn_by_stand_in):
            span = search(messages, index, text=text, tools=tools)
            if span is not None:
                return span
        raise user_error(
            "chat_template_unsupported",
            f"The model's chat template does not show where assistant message {index} begins and ends.",
            hint="Use a template that renders each message after the ones before it, such as ChatML.",
            param="model",
        )

    def _turn_by_prefix(
        self, messages: list[Message], index: int, *, text: str, tools: list[Any] | None
    ) -> Span | None:
        try:
            before = self._render(messages[:index], tools=tools, for_reply=True)
            through = text
            if index + 1 < len(messages):
                through = self._render(messages[: index + 1], tools=tools)
        except Exception:  # a template may refuse a conversation that is cut short; a stand-in still works
            return None
        if not through.startswith(before) or not text.startswith(through):
            return None
        return len(before), self._without_space_after_end_token(text, len(before), len(through))

    def _turn_by_stand_in(
        self, messages: list[Message], index: int, *, text: str, tools: list[Any] | None
    ) -> Span | None:
        """For templates that rewrite earlier turns: put a stand-in in the turn's place and see what stays around it."""
        changed = [*messages[:index], {**messages[index], "content": STAND_IN}, *messages[index + 1 :]]
        before, found, after = self._render(changed, tools=tools).partition(STAND_IN)
        if not found or not text.startswith(before) or not text.endswith(after) or len(before + after) > len(text):
            return None
        closing = next((token for token in self._special_tokens if after.lstrip().startswith(token)), "")
        end = len(text) - len(after)
        return len(before), len(text) - len(after.lstrip()) + len(closing) if closing else end

    def _without_space_after_end_token(self, text: str, start: int, end: int) -> int:
        """Many templates put a line break after the end-of-turn token; the model never has to write it."""
        trimmed = start + len(text[start:end].rstrip())
        return trimmed if text[start:trimmed].endswith(self._special_tokens) else end

    def _render(self, messages: list[Message], *, tools: list[Any] | None, for_reply: bool = False) -> str:
        rendered = self._tokenizer.apply_chat_template(
            messages,
            tools=tools if self._knows_tools else None,
            add_generation_prompt=for_reply,
            tokenize=False,
        )
        return str(rendered)

    def _prepare(self, messages: list[Message], *, tools: list[Any] | None) -> list[Message]:
        prepared = [self._prepare_message(message) for message in messages]
        if tools and not self._knows_tools:
            listing = "You may call these functions:\n" + "\n".join(json.dumps(tool) for tool in tools)
            if prepared and prepared[0]["role"] == "system":
                prepared[0]["content"] = f"{prepared[0]['content']}\n\n{listing}"
            else:
                prepared.insert(0, {"role": "system", "content": listing})
        return prepared

    def _prepare_message(self, message: Message) -> Message:
        prepared = {key: value for key, value in message.items() if key != "weight"}
        prepared["content"] = _as_text(message.get("content"))
        calls = [_with_parsed_arguments(call) for call in message.get("tool_calls") or ()]
        if calls and self._knows_tool_calls:
            prepared["tool_calls"] = calls
        elif calls:
            prepared.pop("tool_calls", None)
            lines = [f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>" for call in calls]
            prepared["content"] = "\n".join([prepared["content"], *lines]).strip()
        return prepared


def _as_text(content: Any) -> str:
    """Content may be a string, absent, or a list of text parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content) if content is not None else ""


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The API carries arguments as a JSON string; templates print them from an object."""
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        with contextlib.suppress(ValueError):
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}
