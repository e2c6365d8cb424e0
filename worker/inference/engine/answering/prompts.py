"""Messages to the tokens that a model goes on with: by the chat template, written as its training rows were."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.datasets.message_parser import MESSAGE_KEYS, parse_chat
from tunesmith.tuning.datasets.row_errors import BadRow
from tunesmith.tuning.errors import JobFailure
from tunesmith.worker.inference.engine.refusal import Refusal
from tunesmith.worker.train.chat.conversation import ChatRenderer
from tunesmith.worker.train.chat.stop_tokens import stop_tokens
from tunesmith.worker.train.chat.template import TemplateRefusal, TooSlow
from tunesmith.worker.train.data.row_texts import beginning
from tunesmith.worker.train.models.model import load_tokenizer

_SAID = MESSAGE_KEYS | {"function_call"}
MOST_TEMPLATES = 64
RENDER_SECONDS = 30.0
MOST_TEMPLATE_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class _Writer:
    """One template as it renders on one day, and the tokens that end its replies."""

    renderer: ChatRenderer
    ends: frozenset[int]


class Prompts:
    """Of one base. An adapter's folder may bring a template of its own.

    Each template has a thread: one that does not end holds up whoever asks for it, and nobody else.
    """

    def __init__(self, folder: Path, *, today: Callable[[], date]) -> None:
        """Load the tokenizer.

        Raises:
            JobFailure: `broken_model`.
        """
        self.tokenizer = load_tokenizer(folder)
        self._folder, self._today = folder, today
        self._stop_tokens = stop_tokens(folder, self.tokenizer)
        self._begin = beginning(self.tokenizer)
        self._templates: dict[Path, str | None] = {}
        self._threads: dict[str | None, ThreadPoolExecutor] = {}
        self._writers: dict[tuple[str | None, date], _Writer] = {}

    def learn_template(self, folder: Path) -> None:
        """Read the template of an adapter's folder, if it brings one."""
        self._templates[folder] = _template_of(folder)

    async def of_chat(
        self, messages: list[dict[str, Any]], *, tools: list[dict[str, Any]] | None, adapter: Path | None
    ) -> tuple[tuple[int, ...], frozenset[int]]:
        """The prompt's tokens, and those that end a reply.

        Raises:
            Refusal: a message has no such form, or the template does not render them in time.
        """
        template = self._templates.get(adapter) if adapter is not None else None
        if len(self._threads) >= MOST_TEMPLATES:
            self._threads.clear()
        thread = self._threads.setdefault(template, ThreadPoolExecutor(1, thread_name_prefix="template"))
        rendering = asyncio.get_running_loop().run_in_executor(thread, self._render, messages, tools, template)
        try:
            return await asyncio.wait_for(rendering, RENDER_SECONDS)
        except TimeoutError:
            raise _refused_by_template(f"it took more than {RENDER_SECONDS:.0f} seconds") from None

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, template: str | None
    ) -> tuple[tuple[int, ...], frozenset[int]]:
        try:
            sent = [_as_sent(message) for message in messages]
            chat = parse_chat({"messages": sent, **({"tools": tools} if tools else {})})
            writer = self._writer(template)
            text = writer.renderer.prompt(chat)
        except BadRow as bad:
            is_name = bad.reason.startswith(("messages", "tools"))  # of a field, as it is written
            reason = bad.reason if is_name else f"{bad.reason[:1].upper()}{bad.reason[1:]}"
            raise Refusal(f"{reason}.", param="messages") from bad
        except (TemplateRefusal, TooSlow) as refusal:
            raise _refused_by_template(str(refusal)) from refusal
        except JobFailure as broken:
            raise Refusal(broken.failure.message, code=ErrorCode(broken.failure.code), param="model") from broken
        return self.of_text(text, begins=False), writer.ends

    def of_text(self, text: str, *, begins: bool = True) -> tuple[int, ...]:
        """Tokens of a text to go on with, behind what every text of this tokenizer begins with."""
        return tuple(self.tokenizer(f"{self._begin if begins else ''}{text}", add_special_tokens=False)["input_ids"])

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text of the base."""
        return self._numbers(self._stop_tokens)

    def _writer(self, template: str | None) -> _Writer:
        key = template, self._today()
        if key not in self._writers:
            if len(self._writers) >= MOST_TEMPLATES:
                self._writers.clear()
            tokenizer = copy.copy(self.tokenizer)
            if template is not None:
                tokenizer.chat_template = template
            renderer = ChatRenderer(tokenizer, stop_tokens=self._stop_tokens, today=key[1])
            self._writers[key] = _Writer(renderer, self._numbers(renderer.ends()))
        return self._writers[key]

    def _numbers(self, tokens: Sequence[str]) -> frozenset[int]:
        numbers = (self.tokenizer.convert_tokens_to_ids(token) for token in tokens)
        return frozenset(number for number in numbers if isinstance(number, int))


def _as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """Without fields that say nothing: clients send answers back as they came, with `refusal` and whatever else."""
    is_answer = message.get("role") == "assistant"
    return {
        key: value
        for key, value in message.items()
        if key == "content" or (value is not None and (key in _SAID or not is_answer))
    }


def _refused_by_template(reason: str) -> Refusal:
    return Refusal(
        f"The model's chat template does not render these messages: {reason}.",
        code=ErrorCode.CHAT_TEMPLATE_ERROR,
        param="messages",
    )


def _template_of(folder: Path) -> str | None:
    try:
        file = folder / "chat_template.jinja"
        if file.is_file() and file.stat().st_size <= MOST_TEMPLATE_BYTES:
            return file.read_text(encoding="utf-8")
        settings = folder / "tokenizer_config.json"
        if not settings.is_file() or settings.stat().st_size > MOST_TEMPLATE_BYTES:
            return None
        template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return template if isinstance(template, str) else None
