"""What must hold of the loss mask under any template, marked twin or not."""

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.templates.compare import stop_tokens
from benchmarks.templates.twins import Template, tokenizer_for
from tunesmith.tuning.datasets.message_parser import parse_chat
from tunesmith.worker.train.chat.conversation import ChatRenderer, MarkedText


def marked(template: Template, conversation: dict[str, Any]) -> MarkedText:
    """The conversation under the template as its model's hub repository carries it.

    Raises:
        TemplateRefusal, UnknownTurn: as `ChatRenderer.mark`.
    """
    tokenizer = tokenizer_for(template)
    renderer = ChatRenderer(tokenizer, stop_tokens=stop_tokens(template, tokenizer))
    return renderer.mark(parse_chat(conversation))


def violations(text: MarkedText, conversation: dict[str, Any]) -> Iterator[str]:
    """Everything that is wrong with a mask: words of the assistant outside of it, of others inside, no end."""
    taught = "\n".join(text.text[start:end] for start, end in text.spans)
    untaught = _outside(text)
    printed = text.text
    for message in conversation["messages"]:
        words = list(_words(message, without_calls="call" in text.left_out))
        if message["role"] == "assistant":
            yield from (f"not taught: {word!r}" for word in words if word in printed and word not in taught)
        elif message["role"] in ("user", "tool"):
            yield from (
                f"taught: {word!r}" for word in words if len(word) > 3 and word in printed and word not in untaught
            )
    if any(first[1] > second[0] for first, second in zip(text.spans, text.spans[1:], strict=False)):
        yield "spans overlap"
    if text.is_endless:
        yield "no end"


def _outside(text: MarkedText) -> str:
    bounds = [0, *(bound for span in text.spans for bound in span), len(text.text)]
    return "\n".join(text.text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True))


def _words(message: dict[str, Any], *, without_calls: bool) -> Iterator[str]:
    """Stretches of a message that a template prints as they are, if it prints them."""
    for key in ("content", "reasoning_content"):
        for line in (message.get(key) or "").split("\n"):
            if line.strip() and not line.startswith("<"):
                yield line.strip()
    for call in () if without_calls else message.get("tool_calls", ()):
        yield call["function"]["name"]
        yield from (
            str(value) for value in json.loads(call["function"]["arguments"]).values() if isinstance(value, str)
        )
