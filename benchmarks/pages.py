"""Markdown pages that a benchmark writes into docs/: wrapped paragraphs, and tables with long reasons below them."""

import textwrap
from collections.abc import Iterable, Sequence

COLUMNS = 100


class Reasons:
    """Texts too long for a table's cell. Each gets a number, the same text the same one."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Of a text, counted from 1 in the order in which they came."""
        return self._numbers.setdefault(text, len(self._numbers) + 1)

    def listed(self) -> str:
        """All texts as a numbered list."""
        return "\n".join(
            _filled(f"{number}. {plain(text)}", indent=" " * len(f"{number}. "))
            for text, number in self._numbers.items()
        )


def plain(text: str) -> str:
    """One line of foreign text that Markdown prints as it is; code between backticks is left alone."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # a backtick without its other one
        parts = ["'".join(parts)]
    for index in range(0, len(parts), 2):
        for character in "\\*<[|":
            parts[index] = parts[index].replace(character, f"\\{character}")
    return "`".join(parts)


def paragraph(text: str) -> str:
    """The text in lines of at most `COLUMNS`, whatever its own lines are."""
    return _filled(" ".join(text.split()))


def bullets(texts: Iterable[str]) -> str:
    """A list, each item in lines of at most `COLUMNS`."""
    return "\n".join(_filled(f"- {text}", indent="  ") for text in texts)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table. A bar inside of a cell is escaped, a line break becomes a space."""
    first, *others = (_line([_cell(value) for value in row]) for row in (header, *rows))
    return "\n".join([first, f"|{'---|' * len(header)}", *others])


def page(title: str, *blocks: str) -> str:
    """A whole file."""
    return "\n\n".join([f"# {title}", *(block for block in blocks if block)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "|".join(["", *(f" {cell} " if cell else " " for cell in cells), ""])


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _filled(text: str, *, indent: str = "") -> str:
    return textwrap.fill(text, COLUMNS, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
