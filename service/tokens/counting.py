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

from tunesmith.tuning.datasets.token_scale import TokenCounts
from tunesmith.tuning.json_objects import Json

_MOST_BYTES = 3 * 1024**3  # of address space
_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")  # marks for trainers, which print nothing
_STOP_TOKENS = 1  # ends every reply, and is learnt with it
_HEADER_TOKENS = 5  # around a message where the model has no template: role and separators


def main() -> int:
    """Print `TokenCounts`."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
    folder = Path(sys.argv[1])
    counter = Counter(folder)
    sizes = [counter.size(json.loads(line)) for line in (folder / "rows.jsonl").read_bytes().splitlines()]
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

    def size(self, row: Json) -> tuple[int, int, int]:
        """Tokens of all sequences of a row, of the longest, and those that are learnt."""
        sequences = list(self._sequences(row))
        lengths = [length for length, _ in sequences]
        return sum(lengths), max(lengths), sum(learnt for _, learnt in sequences)

    def _sequences(self, row: Json) -> Iterator[tuple[int, int]]:
        if "messages" in row:
            yield self._conversation(row["messages"], row.get("tools"))
        elif "input" in row:
            before = [message | {"weight": 0} for message in row["input"]["messages"]]
            for key in ("preferred_output", "non_preferred_output"):
                yield self._conversation(before + row[key], row["input"].get("tools"))
        elif "chosen" in row:
            for key in ("chosen", "rejected"):
                yield self._answer(row["prompt"], row[key])
        elif "prompt" in row:
            yield self._answer(row["prompt"], row["completion"])
        else:
            length = self._count(row["text"]) + _STOP_TOKENS
            yield length, length

    def _answer(self, prompt: Any, answer: Any) -> tuple[int, int]:
        if isinstance(prompt, str) and isinstance(answer, str):
            learnt = self._count(answer) + _STOP_TOKENS
            return self._count(prompt) + learnt, learnt
        before = [message | {"weight": 0} for message in _turns(prompt, "user")]
        return self._conversation(before + _turns(answer, "assistant"), None)

    def _conversation(self, messages: list[Json], tools: Any) -> tuple[int, int]:
        taught = [message for message in messages if message["role"] == "assistant" and message.get("weight", 1)]
        learnt = sum(self._count(_words(message)) + _STOP_TOKENS for message in taught)
        if self._template is None:
            return sum(self._count(_words(message)) + _HEADER_TOKENS for message in messages), learnt
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        text = self._template.render(messages=plain, tools=tools, add_generation_prompt=False, **self._special)
        return self._count(text), learnt

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _turns(value: Any, role: str) -> list[Json]:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _words(message: Json) -> str:
    """Everything that the message says."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [part["text"] for part in content]
    thoughts = [message[key] for key in ("reasoning_content", "reasoning", "thinking") if message.get(key)]
    calls = [
        f"{call['function']['name']}{call['function'].get('arguments', '')}" for call in message.get("tool_calls") or []
    ]
    return "".join([*thoughts, *parts, *calls])


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
