"""What an answer has to say, from the engine's thread to the client's: bounded, for a client may stop reading."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.worker.inference.engine.answering.sampling import Drawn
from tunesmith.worker.inference.engine.refusal import Refusal

MOST_UNREAD = 256


@dataclass(frozen=True)
class Delta:
    """A step of an answer. `drawn` are the tokens since the last one, whose text may come later than they."""

    text: str = ""
    drawn: Sequence[Drawn] = ()
    finish_reason: str | None = None
    error: Refusal | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.finish_reason is not None or self.error is not None


class Outbox:
    """Of one request, whose choices are numbered. Made in the event loop that reads it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._deltas: deque[tuple[int, Delta]] = deque()
        self._arrived = asyncio.Event()

    def put(self, choice: int, delta: Delta) -> bool:
        """From any thread. False when the client leaves too much unread: its sequence should end."""
        if len(self._deltas) >= MOST_UNREAD and not delta.is_last:
            return False
        self._deltas.append((choice, delta))
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.set)
        return True

    async def get(self) -> tuple[int, Delta]:
        """The next one, of any choice."""
        while not self._deltas:
            self._arrived.clear()
            if not self._deltas:
                await self._arrived.wait()
        return self._deltas.popleft()
