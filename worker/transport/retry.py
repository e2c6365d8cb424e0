"""Patience: call something again, with growing and jittered pauses, until it answers or waiting makes no sense."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

Answer = TypeVar("Answer")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 15.0


class Unavailable(Exception):
    """The other side cannot answer now: no connection, an error of its own, or it asks to slow down."""

    def __init__(self, reason: str, *, pause_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


def never_stop() -> None:
    """The check of a caller that nothing interrupts."""


@dataclass(frozen=True)
class Patience:
    """How long to try. `check` runs before each try and during pauses, and stops the waiting by raising."""

    seconds: float
    check: Callable[[], None] = never_stop
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = field(default=random.random)
    note: Callable[[Unavailable], None] = lambda _unavailable: None  # told of each failed try

    def call(self, attempt: Callable[[], Answer]) -> Answer:
        """Return the first answer.

        Raises:
            Unavailable: the last one, when the patience is used up.
        """
        deadline = self.clock() + self.seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            self.check()
            try:
                return attempt()
            except Unavailable as unavailable:
                if self.clock() + pause > deadline:
                    raise
                self.note(unavailable)
                self._rest(unavailable.pause_seconds or pause * (0.5 + self.jitter()))
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _rest(self, seconds: float) -> None:
        end = self.clock() + seconds
        while (left := end - self.clock()) > 0:
            self.sleep(min(left, 0.5))
            self.check()
