"""What the command prints: data on stdout, everything else on stderr, and no colour where nobody sees it."""

import itertools
import json
import os
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tunesmith.tuning.api.base import Answer

from tunesmith.tuning.state import JobState

_BOLD, _DIM, _RED, _GREEN, _YELLOW, _RESET = "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m", "\033[0m"
_CONTROLS = re.compile(r"(\033\[[\d;]*m)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # names, logs and models' words have any
_NARROWEST_COLUMN = 16
_JOB_ID = re.compile(r"^ftjob-[0-9a-f]{24}([0-9a-f]{8})$")  # its end names it in every verb
_STATE_COLORS: dict[str, str] = {
    JobState.SUCCEEDED: _GREEN,
    JobState.FAILED: _RED,
    JobState.CANCELLED: _YELLOW,
    JobState.RUNNING: _BOLD,
    "error": _RED,  # of a file
}


def is_interactive(stream: TextIO | None = None, *, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a person watches this stream: a terminal that can redraw, outside continuous integration."""
    stream = stream or sys.stderr
    continuous_integration = environment.get("CI", "").lower() not in ("", "0", "false")
    return stream.isatty() and not continuous_integration and environment.get("TERM") != "dumb"


def has_color(stream: TextIO, *, environment: Mapping[str, str] = os.environ) -> bool:
    """Colour needs a terminal and obeys NO_COLOR (https://no-color.org: any value but the empty one)."""
    return not environment.get("NO_COLOR") and is_interactive(stream, environment=environment)


def data(text: str) -> None:
    """One line of data, for the next program in the pipe."""
    print(without_controls(text), flush=True)


def note(text: str = "") -> None:
    """One line for the person who watches."""
    print(without_controls(text), file=sys.stderr, flush=True)


def without_controls(text: str) -> str:
    """What cannot move the cursor, rename the window or answer for the keyboard: colours, tabs and lines stay."""
    return _CONTROLS.sub(lambda found: found[0] if found[1] else "\N{REPLACEMENT CHARACTER}", text)


def confirms(question: str) -> bool:
    """Whether the person at the terminal says yes; the question is not data."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def as_json(value: Any) -> None:
    """The value, in which answers of the service may be, as indented JSON on stdout.

    JSON has no word for infinity, nor for what is not a number.
    """
    data(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_as_plain))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, stream: TextIO | None = None) -> None:
    """Aligned columns on stdout unless told otherwise: one line for each row in a pipe, as `awk` wants it.

    On a terminal that is too narrow ids of jobs lose their beginning, and the widest columns go on below themselves.
    """
    stream = stream or sys.stdout
    cells = [[_cell(value) for value in row] for row in rows]
    widths = _widths(columns, cells)
    if is_interactive(stream):
        if sum(widths) + 2 * (len(widths) - 1) > shutil.get_terminal_size().columns:
            cells = [[_JOB_ID.sub(r"\1", text) for text in row] for row in cells]
            widths = _widths(columns, cells)
        words = [
            max(len(word) for row in [list(columns), *cells] for word in row[place].split())
            for place in range(len(columns))
        ]
        widths = _fitted(widths, words, columns=shutil.get_terminal_size().columns)
    color = has_color(stream)
    for line in _lines(columns, widths):
        print(_style(line, _BOLD, color), file=stream, flush=True)
    for row in cells:
        for line in _lines(row, widths, styles=[_STATE_COLORS.get(text) if color else None for text in row]):
            print(line, file=stream, flush=True)


def state(text: str, *, stream: TextIO | None = None) -> str:
    """A state word, padded for alignment and coloured where colour is welcome."""
    return _style(text.ljust(10), _STATE_COLORS.get(text), has_color(stream or sys.stderr))


def dim(text: str, *, stream: TextIO | None = None) -> str:
    """Text that matters less."""
    return _style(text, _DIM, has_color(stream or sys.stderr))


def bold(text: str, *, stream: TextIO | None = None) -> str:
    """Text that matters more."""
    return _style(text, _BOLD, has_color(stream or sys.stderr))


def beside(head: str, text: str, *, stream: TextIO | None = None) -> str:
    """A text beside its head; on a terminal it goes on below itself, between words."""
    stream = stream or sys.stderr
    room = shutil.get_terminal_size().columns - len(head)
    if not is_interactive(stream) or room < _NARROWEST_COLUMN:
        return head + text
    lines = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    return head + f"\n{' ' * len(head)}".join(lines)


def duration(seconds: float) -> str:
    """`8.2 s`, `7m 40s`, `5h 10m`, `3d 4h`: finer than `values.units.duration`, for estimates."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 48 * 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def size(count_bytes: float) -> str:
    """A size in decimal units, as disks and downloads are sold."""
    if count_bytes < 1000:
        return f"{count_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count_bytes /= 1000
        if count_bytes < 1000:
            return f"{count_bytes:.1f} {unit}"
    return f"{count_bytes / 1000:.1f} TB"


def moment(unix_seconds: float | None) -> str:
    """A point in time in local time, to the second."""
    if unix_seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_seconds))


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[index]) for row in [columns, *cells]) for index in range(len(columns))]


def _fitted(widths: Sequence[int], words: Sequence[int], *, columns: int) -> list[int]:
    """Columns made narrower until the table fits: first between words; ids are broken where that is too little.

    `words` has the longest word of each column. Short columns, such as sizes, stay whole while others can give way.
    """
    fitted = list(widths)
    between_words = [width if width <= _NARROWEST_COLUMN else word for width, word in zip(widths, words, strict=True)]
    broken = [min(width, _NARROWEST_COLUMN) for width in between_words]
    for narrowest in (between_words, broken, [min(word, _NARROWEST_COLUMN) for word in words]):
        while sum(fitted) + 2 * (len(fitted) - 1) > columns:
            room = [width - least for width, least in zip(fitted, narrowest, strict=True)]
            if max(room) <= 0:
                break
            fitted[max(range(len(fitted)), key=lambda index: (room[index] > 0, fitted[index]))] -= 1
    return fitted


def _lines(row: Sequence[str], widths: Sequence[int], *, styles: Sequence[str | None] | None = None) -> Iterator[str]:
    """One row, each cell wrapped in its column."""
    wrapped = [_wrapped(text, width) for text, width in zip(row, widths, strict=True)]
    for parts in itertools.zip_longest(*wrapped, fillvalue=""):
        padded = [part.ljust(width) for part, width in zip(parts, widths, strict=True)]
        styled = [
            _style(part, style, bool(style)) for part, style in zip(padded, styles or [None] * len(padded), strict=True)
        ]
        yield "  ".join(styled).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) if len(text) > width else [text]


def _as_plain(answer: "Answer") -> dict[str, Any]:
    return answer.model_dump(mode="json")


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _style(text: str, code: str | None, color: bool) -> str:
    return f"{code}{text}{_RESET}" if code and color else text
