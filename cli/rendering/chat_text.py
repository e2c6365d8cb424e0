"""How answers of models look: words as they come, two models side by side, tokens with their probabilities."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from threading import Event
from typing import TYPE_CHECKING

from tunesmith.cli import output
from tunesmith.cli.conversation import Piece, Wait

if TYPE_CHECKING:
    from rich.text import Text

_LIKELY, _POSSIBLE = 0.9, 0.5
_PER_SECOND = 12  # redraws of answers side by side

Answer = Callable[[], Iterator[Piece | Wait]]


def write(pieces: Iterable[Piece | Wait]) -> None:
    """One answer on stdout, word by word; with probabilities, a token a line where no terminal can colour them."""
    if output.is_interactive(sys.stdout):
        _write_coloured(_spoken(pieces))
        return
    has_probabilities = False
    for piece in _spoken(pieces):
        has_probabilities = piece.probability is not None
        text = piece.text if piece.probability is None else f"{piece.probability:.3f}  {piece.text!r}\n"
        sys.stdout.write(output.without_controls(text))
        sys.stdout.flush()
    if not has_probabilities:
        output.data("")


def write_side_by_side(names: Sequence[str], answers: Sequence[Answer]) -> None:
    """Several models' answers at once: in columns on a terminal, else one block after another."""
    if not output.is_interactive(sys.stdout):
        for name, answer in zip(names, answers, strict=True):
            output.data(f"== {name}")
            write(answer())
        return
    _write_columns(names, answers)


def _spoken(pieces: Iterable[Piece | Wait]) -> Iterator[Piece]:
    """What is waited for goes to stderr, a line whenever it changes."""
    told = None
    for piece in pieces:
        if not isinstance(piece, Wait):
            yield piece
        elif piece != told:
            told = piece
            output.note(output.dim(f"waiting: {piece.what}"))


def _write_coloured(pieces: Iterable[Piece]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for piece in pieces:
        console.print(
            output.without_controls(piece.text), style=_style(piece.probability), end="", markup=False, soft_wrap=True
        )
    console.print()


def _write_columns(names: Sequence[str], answers: Sequence[Answer]) -> None:
    """Each model is asked in a thread of its own, so that the quicker one waits for nobody."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    texts = [Text() for _ in names]
    table = Table(expand=True, show_edge=False, pad_edge=False)
    for name in names:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*texts)
    broken_off = Event()
    with (
        Live(table, refresh_per_second=_PER_SECOND),
        ThreadPoolExecutor(max_workers=len(answers)) as threads,
    ):
        try:
            list(threads.map(partial(_fill, broken_off), texts, answers))
        except BaseException:  # Ctrl-C, too: the other answers are not waited for
            broken_off.set()
            raise


def _fill(broken_off: Event, text: "Text", answer: Answer) -> None:
    has_begun = False
    with closing(answer()) as pieces:  # type: ignore[type-var]
        for piece in pieces:
            if broken_off.is_set():
                return
            if not has_begun:
                text.plain = ""  # what was waited for
            if isinstance(piece, Wait):
                text.append(f"waiting: {piece.what}", style="dim")
                continue
            has_begun = True
            text.append(piece.text, style=_style(piece.probability))


def _style(probability: float | None) -> str:
    if probability is None:
        return ""
    return "green" if probability >= _LIKELY else "yellow" if probability >= _POSSIBLE else "red"
