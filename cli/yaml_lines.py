"""Reading YAML as plain values that know their lines: no types but JSON's, bounded, nothing twice, nothing executed."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import yaml

LARGEST_BYTES = 64 * 1024
MOST_VALUES = 2_000  # aliases count as often as they are used
_DEEPEST = 24
_DEEPEST_BRACKETS = 100
_LONGEST_NUMBER = 20  # digits; a longer one stays text
_TAG = "tag:yaml.org,2002:"
# YAML 1.2's core schema. 1.1, which the library has, reads `no` as false, 1e-4 as text and 010 as eight.
_PLAIN = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)")),
    ("int", re.compile(r"[-+]?[0-9]+")),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")),
)

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, and where; line 0 is the file as a whole."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


class NotReadable(Exception):
    """The text is no YAML that is taken here."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


@dataclass
class Lines:
    """A value and where each part of it stands, by its path."""

    value: Any = None
    _lines: dict[Path, int] = field(default_factory=dict)

    def of(self, path: Path) -> int:
        """The line of the part, or of the nearest one around it that is there."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def note(self, path: Path, node: yaml.Node) -> None:
        """The part begins here, or before: a key stands before its value."""
        self._lines.setdefault(path, node.start_mark.line + 1)


def read(text: str) -> Lines:
    """Read one document.

    Raises:
        NotReadable: with the line.
    """
    if _bracket_depth(text) > _DEEPEST_BRACKETS:  # the library's time grows with the square of their depth
        raise NotReadable(0, f"Nested deeper than {_DEEPEST} levels.")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotReadable(mark.line + 1 if mark else 0, f"Not YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise NotReadable(0, f"Not YAML: {error}.".replace("\n", " ")) from None
    except RecursionError:
        raise NotReadable(0, f"Nested deeper than {_DEEPEST} levels.") from None
    if root is None:
        raise NotReadable(0, "The file is empty.")
    lines = Lines()
    lines.value = _Reader(lines).read(root, ())
    return lines


def _bracket_depth(text: str) -> int:
    """At least the depth of lists and mappings in brackets; those inside of words count too."""
    steps = (1 if letter in "[{" else -1 for letter in text if letter in "[]{}")
    return max(accumulate(steps), default=0)


class _Reader:
    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._values = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise NotReadable(node.start_mark.line + 1, f"More than {MOST_VALUES:,} values, aliases counted.")
        if len(path) > _DEEPEST:
            raise NotReadable(node.start_mark.line + 1, f"Nested deeper than {_DEEPEST} levels.")
        self._lines.note(path, node)
        if isinstance(node, yaml.MappingNode):
            _require_tag(node, "map")
            return dict(self._pairs(node, path))
        if isinstance(node, yaml.SequenceNode):
            _require_tag(node, "seq")
            return [self.read(item, (*path, number)) for number, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)  # noqa: S101 - there is no fourth kind
        return _scalar(node)

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise NotReadable(line, "A key is one word.")
            key = str(key_node.value)
            if key in seen:
                raise NotReadable(line, f"{key!r} is here twice; first in line {seen[key]}.")
            seen[key] = line
            self._lines.note((*path, key), key_node)
            yield key, self.read(value_node, (*path, key))


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if node.style in ("'", '"', "|", ">"):
        _require_tag(node, "str")
        return text
    if node.tag == f"{_TAG}str":
        return _plain(text)
    if node.tag not in {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "timestamp", "merge", "value")}:
        raise _foreign(node)
    return _plain(text)


def _plain(text: str) -> Any:
    kind = next((kind for kind, pattern in _PLAIN if pattern.fullmatch(text)), "str")
    makers: Mapping[str, Callable[[str], Any]] = {
        "null": lambda _word: None,
        "bool": lambda word: word.lower() == "true",
        "int": lambda word: int(word) if len(word) <= _LONGEST_NUMBER else word,
        "float": lambda word: float(word) if math.isfinite(float(word)) else word,
    }
    return makers.get(kind, str)(text)


def _require_tag(node: yaml.Node, kind: str) -> None:
    if node.tag not in (f"{_TAG}{kind}", "!"):
        raise _foreign(node)


def _foreign(node: yaml.Node) -> NotReadable:
    return NotReadable(node.start_mark.line + 1, f"The tag {node.tag!r:.60} is not taken here: write plain values.")
