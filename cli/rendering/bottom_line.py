"""One line that stays below what is told on a terminal, and leaves nothing behind when the terminal is resized."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from tunesmith.cli import output

_ERASE_ROW, _ROW_ABOVE = "\r\033[2K", "\033[A\033[2K"
_KEPT_FREE_COLUMNS = 2  # for the ^C that a terminal shows where the cursor is
_HIDE_CURSOR, _SHOW_CURSOR = "\033[?25l", "\033[?25h"


class BottomLine:
    """Draws a line anew whenever it changes, something is told above it, or the terminal gets another size.

    `columns` tells how wide the terminal is now; `reflows` whether it breaks lines anew when that changes.
    """

    def __init__(self, stream: TextIO, *, columns: Callable[[], int], reflows: bool) -> None:
        self._stream, self._columns, self._reflows = stream, columns, reflows
        self._fit: Callable[[int], str] = lambda _columns: ""
        self._drawn = ""
        self._is_stale = False
        self._writing = threading.Lock()

    def tell(self, line: str) -> None:
        """A line that stays, above this one."""
        self._draw(above=output.without_controls(line) + "\n")

    def show(self, fit: Callable[[int], str]) -> None:
        """What to show from now on: `fit` makes it as long as so many columns allow."""
        self._fit = fit
        self._draw()

    def redraw(self) -> None:
        """The same in the terminal's new size; called by a signal, which may come while it is being drawn.

        Then whoever draws does so once more.
        """
        self._is_stale = True
        if not self._writing.locked():
            self._draw()

    def _draw(self, *, above: str = "") -> None:
        with self._writing:
            self._is_stale = False
            columns = self._columns()
            text = self._fit(max(1, columns - _KEPT_FREE_COLUMNS))
            self._stream.write(self._erase(columns) + above + text)
            self._stream.flush()
            self._drawn = text
        if self._is_stale:
            self._draw()

    def _erase(self, columns: int) -> str:
        """What was drawn takes several rows of a terminal that has become narrower: the cursor is in the last."""
        rows = -(-len(self._drawn) // columns) if self._reflows else 1
        return _ERASE_ROW + _ROW_ABOVE * (rows - 1)


@contextmanager
def bottom_line(stream: TextIO, *, environment: Mapping[str, str] = os.environ) -> Iterator[BottomLine]:
    """A line at the bottom of this terminal, which goes at the end."""
    line = BottomLine(stream, columns=lambda: _columns_of(stream), reflows=_reflows(environment))
    before = signal.signal(signal.SIGWINCH, lambda _number, _frame: line.redraw())
    stream.write(_HIDE_CURSOR)
    try:
        yield line
    finally:
        signal.signal(signal.SIGWINCH, before)
        line.show(lambda _columns: "")
        stream.write(_SHOW_CURSOR)
        stream.flush()


def _columns_of(stream: TextIO) -> int:
    try:
        return max(1, os.get_terminal_size(stream.fileno()).columns)
    except OSError:
        return shutil.get_terminal_size().columns


def _reflows(environment: Mapping[str, str]) -> bool:
    """Terminals break their lines anew but for xterm, Linux's console and GNU screen, which cut them."""
    cuts = environment.get("TERM") == "linux" or any(name in environment for name in ("XTERM_VERSION", "STY"))
    return not cuts
