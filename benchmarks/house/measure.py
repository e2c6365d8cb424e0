"""What can be counted about source code from its text and syntax trees alone, folder by folder."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

UNIT_WORDS = re.compile(
    r"\b(bytes?|kib|mib|gib|seconds?|milliseconds?|hours?|tokens?|rows?|steps?|percent|share|ratio|flops?|columns?"
    r"|lines?|layers?|heads?|per|from 0 to 1|GB|MB|UTC)\b|%|\[[a-z_ ,+*0-9]+\]",
    re.IGNORECASE,
)
UNIT_SUFFIX = re.compile(
    r"(_|^)(bytes|gib|gb|seconds|hours|tokens|rows|steps|count|counts|number|numbers|size|sizes|length|lengths|rank"
    r"|index|line|lines|epochs?|seed|port|pid|pids|ratio|share|probability|rate|flops|factor|layers|heads|limit|stage)$"
)
NUMBERS = {"int", "float"}


@dataclass(frozen=True)
class Function:
    """One function or method. Lines count from its `def` to its end, docstring included."""

    name: str
    file: Path
    lines: int
    is_public: bool
    returns_typed: bool
    docstring: str | None
    has_numbers: bool  # a parameter or the result is a plain number whose own name has no unit
    raises_errors: bool


@dataclass(frozen=True)
class Source:
    """One file."""

    path: Path
    lines: int
    comment_lines: int
    docstring_lines: int
    functions: tuple[Function, ...]


@dataclass(frozen=True)
class Tree:
    """All files of some folders."""

    name: str
    sources: tuple[Source, ...] = field(repr=False)

    @property
    def lines(self) -> int:
        """Lines that are not blank."""
        return sum(source.lines for source in self.sources)

    @property
    def functions(self) -> list[Function]:
        """All of all files."""
        return [function for source in self.sources for function in source.functions]

    def share(self, kind: str) -> float:
        """Of lines that are `comment_lines` or `docstring_lines`."""
        return sum(getattr(source, kind) for source in self.sources) / max(self.lines, 1)


def measure(name: str, folders: Sequence[Path], *, without: Sequence[Path] = ()) -> Tree:
    """Every Python file below the folders, but for those below `without`."""
    found = (path for folder in folders for path in sorted(folder.rglob("*.py")))
    wanted = (path for path in found if not any(path.is_relative_to(other) for other in without))
    return Tree(name, tuple(read(path) for path in wanted))


def read(path: Path) -> Source:
    """Measure one file."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    return Source(
        path=path,
        lines=sum(bool(line.strip()) for line in text.splitlines()),
        comment_lines=sum(
            token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline)
        ),
        docstring_lines=sum(_docstring_lines(node) for node in ast.walk(tree)),
        functions=tuple(_functions(tree, path)),
    )


def folder_sizes(roots: Sequence[Path]) -> dict[Path, int]:
    """Python files directly in each folder."""
    folders = {path.parent for root in roots for path in root.rglob("*.py")}
    return {folder: len(list(folder.glob("*.py"))) for folder in sorted(folders)}


def _functions(tree: ast.AST, path: Path, *, is_private: bool = False) -> Iterator[Function]:
    for node in ast.iter_child_nodes(tree):
        name = getattr(node, "name", "")
        hidden = is_private or (name.startswith("_") and not name.endswith("__"))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _function(node, path, is_public=not hidden and not name.startswith("__"))
            yield from _functions(node, path, is_private=True)
        elif isinstance(node, ast.ClassDef | ast.If | ast.Try | ast.With):
            yield from _functions(node, path, is_private=hidden)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, path: Path, *, is_public: bool) -> Function:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    numbers = [argument.arg for argument in arguments if _is_number(argument.annotation)]
    if _is_number(node.returns):
        numbers.append(node.name)
    return Function(
        name=node.name,
        file=path,
        lines=(node.end_lineno or node.lineno) - node.lineno + 1,
        is_public=is_public,
        returns_typed=node.returns is not None or _is_compiled(node),
        docstring=ast.get_docstring(node),
        has_numbers=any(not UNIT_SUFFIX.search(name) for name in numbers),
        raises_errors=any(isinstance(inner, ast.Raise) and inner.exc is not None for inner in _own(node)),
    )


def _is_compiled(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """By Triton, which reads annotations its own way."""
    return any(isinstance(decorator, ast.Attribute) and decorator.attr == "jit" for decorator in node.decorator_list)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a function without what is in functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _own(child)


def _is_number(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id in NUMBERS


def _docstring_lines(node: ast.AST) -> int:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return 0
    first = node.body[0] if node.body else None
    if ast.get_docstring(node) is None or first is None:
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1
