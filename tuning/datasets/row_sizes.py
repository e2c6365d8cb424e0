"""How many characters and, by estimate from bytes, tokens a typed row has."""

import json
from collections.abc import Callable
from typing import NamedTuple

from tunesmith.tuning.datasets.row_formats import Chat, Completion, Messages, PreferencePair, Row, Text
from tunesmith.tuning.values.json_objects import Json

_OVERHEAD_TOKENS = 5  # of the chat template around each message: role, separators
STOP_TOKENS = 1  # ends every reply, and is learnt with it
_BYTES_PER_TOKEN = 4  # English prose under a byte-pair tokenizer of 32k to 150k entries; other scripts take fewer


class RowSize(NamedTuple):
    """What one row adds to the counts. Tokens are estimates; `longest` is one sequence, `tokens` all of them."""

    characters: int
    tokens: int
    longest: int
    supervised_tokens: int
    has_tools: bool = False
    has_weights: bool = False


def estimated_tokens(text: str) -> int:
    """By the bytes of a text."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def size_of(row: Row, *, tokens: Callable[[str], int] = estimated_tokens) -> RowSize:
    """Count a row; `tokens` counts those of a text, and what a template puts around messages is assumed."""
    match row:
        case Chat():
            return _size_of_chat(row, tokens)
        case PreferencePair():
            return _size_of_pair(row, tokens)
        case Completion():
            prompt, completion = tokens(row.prompt), tokens(row.completion)
            characters = len(row.prompt) + len(row.completion)
            return RowSize(characters, prompt + completion, prompt + completion, completion)
        case Text():
            length = tokens(row.text)
            return RowSize(len(row.text), length, length, length)


def _size_of_chat(row: Chat, tokens: Callable[[str], int]) -> RowSize:
    tools = _listed(row.tools)
    characters, length, supervised, has_weights = len(tools), tokens(tools), 0, False
    for message in row.messages:
        words = message.words
        said = tokens(words)
        characters += len(words)
        length += said + _OVERHEAD_TOKENS
        if said and message.is_taught:
            supervised += said + STOP_TOKENS
        has_weights = has_weights or message.weight is not None
    return RowSize(characters, length, length, supervised, bool(row.tools), has_weights)


def _size_of_pair(row: PreferencePair, tokens: Callable[[str], int]) -> RowSize:
    tools = _listed(row.tools)
    asked = _tokens_of(row.prompt, tokens) + tokens(tools)
    answers = [_tokens_of(answer, tokens) for answer in (row.chosen, row.rejected)]
    return RowSize(
        characters=len(tools) + sum(map(_characters_of, (row.prompt, row.chosen, row.rejected))),
        tokens=2 * asked + sum(answers),
        longest=asked + max(answers),
        supervised_tokens=sum(answers),
        has_tools=bool(row.tools),
    )


def _characters_of(part: str | Messages) -> int:
    return len(part) if isinstance(part, str) else sum(len(message.words) for message in part)


def _tokens_of(part: str | Messages, tokens: Callable[[str], int]) -> int:
    if isinstance(part, str):
        return tokens(part)
    return sum(tokens(message.words) + _OVERHEAD_TOKENS for message in part)


def _listed(tools: tuple[Json, ...] | None) -> str:
    return json.dumps(tools, ensure_ascii=False) if tools else ""
