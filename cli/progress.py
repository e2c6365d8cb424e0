"""Progress of transfers and of steps whose length is unknown: a bar where a person watches, plain lines elsewhere."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from tunesmith.cli import output

PLAIN_INTERVAL_SECONDS = 30.0
SILENCE_SECONDS = 8.0  # the longest of a step without a measure, where nobody sees a spinner


@contextmanager
def transfer(
    label: str, *, total_bytes: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int], None]]:
    """Yield `advance(count_bytes)`. Without a terminal: one line at most every 30 s, and one at the end."""
    if not output.is_interactive():
        yield from _plain_transfer(label, total_bytes=total_bytes, clock=clock)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total_bytes)
        yield lambda count_bytes: bar.advance(task, count_bytes)
    output.note(f"{label}  {output.size(total_bytes)}")


@contextmanager
def waiting(
    label: str, *, clock: Callable[[], float] = time.monotonic, silence_seconds: float = SILENCE_SECONDS
) -> Iterator[None]:
    """A step without a measure: a spinner with a terminal, else its name and how long it takes, again and again."""
    started = clock()
    if output.is_interactive():
        from rich.console import Console

        with Console(stderr=True).status(label):
            yield
    else:
        output.note(f"{label} ...")
        with _told_again(label, started=started, clock=clock, silence_seconds=silence_seconds):
            yield
    output.note(f"{label}  {output.dim(output.duration(clock() - started))}")


def watched(file: IO[bytes], advance: Callable[[int], None]) -> IO[bytes]:
    """The same file, telling `advance` how many bytes each read took."""
    return cast("IO[bytes]", _WatchedFile(file, advance))


@contextmanager
def _told_again(label: str, *, started: float, clock: Callable[[], float], silence_seconds: float) -> Iterator[None]:
    """Say every so often that it goes on, from a thread of its own."""
    is_over = threading.Event()

    def tell() -> None:
        while not is_over.wait(silence_seconds):
            output.note(f"{label} ... {output.duration(clock() - started)}")

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class _WatchedFile:
    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file = file
        self._advance = advance

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._advance(len(piece))
        return piece

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def _plain_transfer(label: str, *, total_bytes: int, clock: Callable[[], float]) -> Iterator[Callable[[int], None]]:
    done_bytes, told_at = 0, clock()

    def advance(count_bytes: int) -> None:
        nonlocal done_bytes, told_at
        done_bytes += count_bytes
        if clock() - told_at >= PLAIN_INTERVAL_SECONDS:
            told_at = clock()
            output.note(f"{label}  {output.size(done_bytes)} of {output.size(total_bytes)}")

    yield advance
    output.note(f"{label}  {output.size(total_bytes)}")
