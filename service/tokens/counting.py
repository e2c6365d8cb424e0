"""`python -m tunesmith.service.tokens.counting FOLDER`: the tokens of `rows.jsonl` by the tokenizer beside it, as JSON.

A process of its own, because tokenizer and chat template come from the model: it may end by any signal. Conversations
are rendered as the trainer does it, without the care for every turn's words that training needs.
"""

import json
import re
import resource
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from tunesmith.tuning.datasets.row_formats import Chat, Completion, Row, Text, sequences_of, template_message
from tunesmith.tuning.datasets.row_parser import parse_row
from tunesmith.tuning.datasets.row_sizes import STOP_TOKENS
from tunesmith.tuning.datasets.token_scale import TokenCounts
from tunesmith.tuning.values.json_objects import Json

_MOST_BYTES = 3 * 1024**3  # of address space
_MOST_CPU_SECONDS = 30  # where nobody is left to end it
_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")  # marks for trainers, which print nothing
_HEADER_TOKENS = 5  # around a message where the model has no template: role and separators


def main() -> int:
    """Print `TokenCounts`."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_CPU_SECONDS, _MOST_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    folder = Path(sys.argv[1])
    counter = Counter(folder)
    sizes = [counter.size(row) for row in _rows(folder / "rows.jsonl")]
    tokens, longest, supervised = zip(*sizes, strict=True)
    counts = TokenCounts(
        rows=len(sizes), tokens=sum(tokens), longest=max(longest), supervised_tokens=max(1, sum(supervised))
    )
    print(counts.model_dump_json())
    return 0


class Counter:
    """Counts rows with the tokenizer and the chat template that lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = _json(folder / "tokenizer_config.json")
        self._special = {name: _text_of(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token")}
        template = _template(folder, settings)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals |= {"raise_exception": _refuse, "strftime_now": datetime.now(UTC).strftime}
        self._template = environment.from_string(_GENERATION.sub("", template)) if template else None

    def size(self, row: Row) -> tuple[int, int, int]:
        """Tokens of all sequences of a row, of the longest, and those that are learnt."""
        sequences = [self._sequence(sequence) for sequence in sequences_of(row)]
        lengths = [length for length, _ in sequences]
        return sum(lengths), max(lengths), sum(learnt for _, learnt in sequences)

    def _sequence(self, sequence: Chat | Completion | Text) -> tuple[int, int]:
        match sequence:
            case Chat():
                return self._conversation(sequence)
            case Completion(prompt, completion):
                learnt = self._count(completion) + STOP_TOKENS
                return self._count(prompt) + learnt, learnt
            case Text(text):
                learnt = self._count(text) + STOP_TOKENS
                return learnt, learnt

    def _conversation(self, chat: Chat) -> tuple[int, int]:
        taught = [message for message in chat.messages if message.is_taught]
        learnt = sum(self._count(message.words) + STOP_TOKENS for message in taught)
        if self._template is None:
            return sum(self._count(message.words) + _HEADER_TOKENS for message in chat.messages), learnt
        messages = [template_message(message) for message in chat.messages]
        tools = None if chat.tools is None else list(chat.tools)
        text = self._template.render(messages=messages, tools=tools, add_generation_prompt=False, **self._special)
        return self._count(text), learnt

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _rows(file: Path) -> Iterator[Row]:
    for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
        if (row := parse_row(line, number=number)) is not None:
            yield row


def _template(folder: Path, settings: Json) -> str | None:
    """The chat template, wherever the model keeps it; of several the default one."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found or None


def _json(file: Path) -> Json:
    content: Json = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


def _text_of(token: Any) -> str:
    """A special token is written as a text or as an object with one."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


if __name__ == "__main__":
    sys.exit(main())
