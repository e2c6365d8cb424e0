"""The line of progress in a real pseudo-terminal whose size changes: nothing stale stays on the screen."""

import codecs
import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_SECONDS
from tunesmith.cli.rendering.bottom_line import BottomLine

ROOT = Path(__file__).parents[4]
PROGRAM = Path(__file__).with_name("followed_in_a_terminal.py")
BAR = "█" * 5 + "░" * 19


class Screen:
    """Rows of a terminal that breaks its lines anew when it gets narrower, as most do."""

    def __init__(self, columns: int) -> None:
        self.columns, self._rows, self._row, self._column = columns, [""], 0, 0

    @property
    def text(self) -> list[str]:
        """What is to be seen of it."""
        return "\n".join(row.rstrip() for row in self._rows).rstrip().split("\n")

    def write(self, text: str) -> None:
        for control, letter in re.findall(r"(\033\[[?\d]*[A-Za-z]|\r|\n)|(.)", text):
            if letter:
                self._put(letter)
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._row, self._column = self._row + 1, 0
                self._rows += [""] * (self._row + 1 - len(self._rows))
            elif control == "\033[2K":
                self._rows[self._row] = ""
            elif control == "\033[A":
                self._row = max(0, self._row - 1)

    def narrow(self, columns: int) -> None:
        before, self.columns = self._rows[: self._row], columns
        parts = [self._broken(row) for row in self._rows]
        self._row = sum(len(self._broken(row)) for row in before) + (self._column - 1) // columns
        self._rows, self._column = [part for row in parts for part in row], (self._column - 1) % columns + 1

    def _put(self, letter: str) -> None:
        if self._column == self.columns:
            self.write("\r\n")
        row = self._rows[self._row].ljust(self._column)
        self._rows[self._row] = row[: self._column] + letter + row[self._column + 1 :]
        self._column += 1

    def _broken(self, row: str) -> list[str]:
        return [row[start : start + self.columns] for start in range(0, len(row), self.columns)] or [""]


class Terminal:
    """A program in a pseudo-terminal, and what its screen shows."""

    def __init__(self, *, columns: int) -> None:
        self.screen = Screen(columns)
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # what is read may end within a letter
        self._keyboard, inside = pty.openpty()
        self._resize(columns)
        around = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "CI": "", "NO_COLOR": "1"}
        command = [sys.executable, str(PROGRAM)]
        self._program = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, env=around, start_new_session=True
        )
        os.close(inside)

    def resize(self, columns: int) -> None:
        self.screen.narrow(columns)
        self._resize(columns)

    def _resize(self, columns: int) -> None:
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def wait_for(self, wanted: list[str]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.screen.text != wanted and time.monotonic() < deadline:
            if select.select([self._keyboard], [], [], 0.1)[0]:
                try:
                    self.screen.write(self._decoder.decode(os.read(self._keyboard, 65536)))
                except OSError:  # the program has ended
                    break
        assert self.screen.text == wanted

    def press(self, key: str) -> None:
        os.write(self._keyboard, key.encode())

    def close(self) -> None:
        self._program.kill()
        self._program.wait()
        os.close(self._keyboard)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    started = Terminal(columns=100)
    yield started
    started.close()


def test_a_terminal_that_gets_narrower_and_wider_shows_one_whole_line_of_progress(terminal: Terminal) -> None:
    told = ["told before", "running     auto"]
    wide = f"  {BAR}  20/96  loss 1.500  eta 7m 40s  valid 1.100 (best)"
    terminal.wait_for([*told, wide])
    terminal.resize(50)
    terminal.wait_for([*told, "20/96  loss 1.500  eta 7m 40s  valid 1.100 (best)"[:48]])
    terminal.resize(30)
    terminal.wait_for([*told, "20/96  loss 1.500  eta 7m 40s"[:28]])
    terminal.resize(100)
    terminal.wait_for([*told, wide])
    terminal.press("\x03")
    terminal.wait_for(told)


def test_a_terminal_that_cuts_its_lines_keeps_what_was_told_above() -> None:
    for reflows, erased_rows in ((True, 2), (False, 1)):
        stream, columns = io.StringIO(), [80]
        line = BottomLine(stream, columns=columns.pop, reflows=reflows)
        line.show(lambda columns: "x" * columns)
        columns.append(40)
        stream.truncate(0)
        line.redraw()
        assert stream.getvalue().count("\033[2K") == erased_rows


def test_a_terminal_that_changes_while_its_line_is_drawn_shows_it_in_the_new_size() -> None:
    columns = [80]

    class ResizedAtTheEnd(io.StringIO):
        def flush(self) -> None:
            if columns == [80]:
                columns[0] = 40
                line.redraw()  # as the signal does, in the same thread

    stream = ResizedAtTheEnd()
    line = BottomLine(stream, columns=lambda: columns[0], reflows=True)
    line.show(lambda columns: "x" * columns)
    assert stream.getvalue().endswith("\r\033[2K\033[A\033[2K" + "x" * 38)


def test_what_is_told_cannot_move_the_cursor() -> None:
    stream = io.StringIO()
    BottomLine(stream, columns=lambda: 80, reflows=True).tell("name\033[2J\033[31mred\033[0m")
    assert "\033[2J" not in stream.getvalue()
    assert "\033[31mred\033[0m\n" in stream.getvalue()
