"""A real dataset from the Python standard library: the source of a function -> the first line of its docstring.

The split is by top-level module, so that no file, class or helper is on both sides; sources and answers are unique
over both. The same Python gives the same rows in the same order.
"""

import ast
import json
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.tuning.values.hashes import sha256_of_text

SYSTEM_PROMPT = "Say in one line what the function does, as its docstring would."
SHORTEST_SOURCE_CHARACTERS, LONGEST_SOURCE_CHARACTERS = 80, 360
SHORTEST_ANSWER_CHARACTERS, LONGEST_ANSWER_CHARACTERS = 18, 90
MOST_PER_MODULE = 12  # so that no large package becomes the whole dataset
MOST_HELD_OUT_PER_MODULE = 4

_NOT_THE_LIBRARY = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "encodings", "pydoc_data", "turtledemo", "site-packages", "dist-packages"}
)


@dataclass(frozen=True)
class Example:
    """One function. `source` is without its docstring, `answer` is the docstring's first line."""

    module: str
    name: str
    source: str
    answer: str

    @property
    def top_level(self) -> str:
        """The unit of the split."""
        return self.module.partition(".")[0]

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages before the answer."""
        return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": self.source}]

    def row(self) -> dict[str, list[dict[str, str]]]:
        """The example as one row of a training file."""
        return {"messages": [*self.prompt, {"role": "assistant", "content": self.answer}]}


@dataclass(frozen=True)
class Split:
    """Two sides without a common module, source or answer."""

    training: tuple[Example, ...]
    held_out: tuple[Example, ...]


def build(*, training_rows: int, held_out_rows: int, library: Path | None = None) -> Split:
    """The split of the standard library of this Python, or of the folder `library`.

    Whole top-level modules go to one side, held out first, in the order of their names' hashes; files are read only
    until both sides are full.

    Raises:
        ValueError: the library has too few functions with docstrings.
    """
    held_out: list[Example] = []
    training: list[Example] = []
    seen: set[str] = set()
    for files in _modules(library or Path(sysconfig.get_paths()["stdlib"])):
        if len(held_out) < held_out_rows:
            held_out += _take(files, seen, most=min(MOST_HELD_OUT_PER_MODULE, held_out_rows - len(held_out)))
        elif len(training) < training_rows:
            training += _take(files, seen, most=min(MOST_PER_MODULE, training_rows - len(training)))
        else:
            break
    if len(training) < training_rows or len(held_out) < held_out_rows:
        raise ValueError(f"only {len(training)} + {len(held_out)} functions found in the library")
    return Split(tuple(training), tuple(held_out))


def write_jsonl(path: Path, examples: Iterable[Example]) -> Path:
    """One row per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(example.row(), ensure_ascii=False) + "\n" for example in examples)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def from_file(path: Path, *, module: str) -> Iterator[Example]:
    """Suitable functions of one file; a file this Python cannot parse has none."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, ValueError, OSError):
        return
    lines = text.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            example = _example(node, lines, module=module)
            if example is not None:
                yield example


def _example(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], *, module: str) -> Example | None:
    docstring = ast.get_docstring(node)
    if not docstring or len(node.body) < 2:
        return None
    answer, source = docstring.splitlines()[0].strip(), _source_without_docstring(node, lines)
    if not SHORTEST_ANSWER_CHARACTERS <= len(answer) <= LONGEST_ANSWER_CHARACTERS or not answer.endswith("."):
        return None
    if not SHORTEST_SOURCE_CHARACTERS <= len(source) <= LONGEST_SOURCE_CHARACTERS or answer in source:
        return None
    return Example(module=module, name=node.name, source=source, answer=answer) if _parses(source) else None


def _parses(source: str) -> bool:
    """A text literal that starts at the margin keeps a method from being dedented."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _source_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    first, docstring = node.lineno - 1, node.body[0]
    kept = lines[first : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
    while len(kept) > 1 and not kept[1].strip():
        del kept[1]
    return textwrap.dedent("\n".join(kept)).rstrip()


def _modules(library: Path) -> list[list[tuple[Path, str]]]:
    """The files of each top-level module with their dotted names, in a shuffled but fixed order of modules."""
    modules: dict[str, list[tuple[Path, str]]] = {}
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if _NOT_THE_LIBRARY.isdisjoint(inside.parts):
            name = _module_name(inside)
            modules.setdefault(name.partition(".")[0], []).append((path, name))
    return [modules[name] for name in sorted(modules, key=sha256_of_text)]


def _take(files: list[tuple[Path, str]], seen: set[str], *, most: int) -> list[Example]:
    """Up to `most` functions whose source and answer are in nobody's hands yet, whitespace and case aside."""
    examples = (example for path, module in files for example in from_file(path, module=module))
    taken: list[Example] = []
    for example in sorted(examples, key=_rank):
        keys = {_normal(example.source), _normal(example.answer)}
        if len(taken) < most and seen.isdisjoint(keys):
            seen |= keys
            taken.append(example)
    return taken


def _module_name(inside: Path) -> str:
    parts = inside.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _rank(example: Example) -> tuple[str, str]:
    return sha256_of_text(f"{example.module}.{example.name}"), example.source


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
