"""The same held-out prompts, answered by the base model and by the tuned one, side by side."""

import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.cli import output
from tunesmith.cli.trainer import run_tool
from tunesmith.local.demo.dataset import Example

MAX_NEW_TOKENS = 32
_SOURCE_LINES = 8
_WIDEST_CHARACTERS = 110


@dataclass(frozen=True)
class Comparison:
    """One held-out function and what both models say about it."""

    example: Example
    base: str
    tuned: str


def ask_both(
    examples: Sequence[Example], *, base: Path, result: Path, is_adapter: bool, folder: Path
) -> list[Comparison]:
    """Let both models answer greedily. `result` is the pulled adapter or, after full fine-tuning, a whole model.

    Raises:
        ToolFailed: a model cannot be loaded.
    """
    prompts = folder / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"messages": example.prompt}) + "\n" for example in examples), encoding="utf-8"
    )
    if is_adapter:
        answers = _generate(prompts, "--model", str(base), "--adapter", str(result), "--base-too")
        pairs = [(answer["base_text"], answer["text"]) for answer in answers]
    else:
        both = (_generate(prompts, "--model", str(model)) for model in (base, result))
        pairs = [(before["text"], after["text"]) for before, after in zip(*both, strict=True)]
    return [
        Comparison(example, base=before.strip(), tuned=after.strip())
        for example, (before, after) in zip(examples, pairs, strict=True)
    ]


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


def _generate(prompts: Path, *models: str) -> list[dict[str, str]]:
    printed = run_tool(
        "tunesmith.worker.train.generation.generate",
        *models,
        "--prompts",
        str(prompts),
        "--max-new-tokens",
        str(MAX_NEW_TOKENS),
    )
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
