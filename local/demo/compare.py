"""The same held-out prompts, answered by the base model and by the tuned one through the service, side by side."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tunesmith.cli import output
from tunesmith.cli.client import ServiceError
from tunesmith.local.demo.dataset import Example

if TYPE_CHECKING:
    from openai import OpenAI

MAX_NEW_TOKENS = 32
_SOURCE_LINES = 8
_WIDEST_CHARACTERS = 110


@dataclass(frozen=True)
class Comparison:
    """One held-out function and what both models say about it."""

    example: Example
    base: str
    tuned: str


def ask_both(client: "OpenAI", examples: Sequence[Example], *, base: str, tuned: str) -> list[Comparison]:
    """Ask both models by their names for greedy answers, all at once: one engine writes them in one batch.

    Raises:
        ServiceError: a model did not answer, with the service's reason.
    """
    with ThreadPoolExecutor(max_workers=2 * len(examples)) as threads:
        before, after = (threads.map(partial(_ask, client, model), examples) for model in (base, tuned))
        return [Comparison(*one) for one in zip(examples, before, after, strict=True)]


def side_by_side(comparisons: Iterable[Comparison], *, width: int | None = None) -> Iterator[str]:
    """Lines to print: the function, its real docstring, then two columns."""
    width = min(width or shutil.get_terminal_size((100, 24)).columns, _WIDEST_CHARACTERS)
    for number, comparison in enumerate(comparisons, start=1):
        example = comparison.example
        yield output.bold(f"  {number}  {example.module}.{example.name}")
        source = example.source.splitlines()
        yield from (output.dim(f"     {line}"[:width]) for line in source[:_SOURCE_LINES])
        if len(source) > _SOURCE_LINES:
            yield output.dim(f"     ... {len(source) - _SOURCE_LINES} more lines")
        yield f"     its docstring: {example.answer}"
        yield from _columns(("base model", comparison.base), ("tuned model", comparison.tuned), width=width)
        yield ""


def _columns(left: tuple[str, str], right: tuple[str, str], *, width: int) -> Iterator[str]:
    half = (width - 8) // 2
    columns = [[title, "-" * len(title), *_wrapped(text, half)] for title, text in (left, right)]
    height = max(map(len, columns))
    for index in range(height):
        cells = [column[index] if index < len(column) else "" for column in columns]
        yield f"     {cells[0]:<{half}} | {cells[1]}".rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    lines = [piece for line in text.splitlines() for piece in textwrap.wrap(line, width)]
    return lines or ["(nothing)"]


def _ask(client: "OpenAI", model: str, example: Example) -> str:
    from openai import OpenAIError

    try:
        answer = client.chat.completions.create(
            model=model,
            messages=example.prompt,  # type: ignore[arg-type]
            temperature=0,
            max_tokens=MAX_NEW_TOKENS,
        )
    except OpenAIError as error:
        raise ServiceError(
            f"{model} did not answer: {error}.",
            http_status=503,
            hint="the log of the inference worker is logs/inference.log in the demo's folder",
        ) from error
    return (answer.choices[0].message.content or "").strip()
