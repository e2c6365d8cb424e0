"""Ctrl-C and its relatives as a count, so that stopping happens in order and never in the middle of something."""

import contextlib
import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any, Self

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(Exception):
    """Somebody wants to stop while something is still starting. `exit_code` is a shell's for Ctrl-C, else 0."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number if number == signal.SIGINT else 0


class StopSignals:
    """Counts requests to stop, and lets `wait` return early on any signal, the death of a child included."""

    def __init__(self) -> None:
        self.count = 0
        self._first = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_wakeup = -1
        self._read, self._write = -1, -1

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _STOPPING:
            self._previous[number] = signal.signal(number, self._stop_asked)
        # Without a handler of its own SIGCHLD would not write to the wakeup descriptor.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float) -> None:
        """Sleep until any signal arrives, at most `seconds`."""
        readable, _, _ = select.select([self._read], [], [], seconds)
        if readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 4096)

    def check(self) -> None:
        """Raise StopRequested when somebody asked to stop."""
        if self.count:
            raise StopRequested(self._first)

    def _stop_asked(self, number: int, _frame: FrameType | None) -> None:
        self._first = self._first or number
        self.count += 1
