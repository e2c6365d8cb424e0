"""Waiting for news of a row: those who wait hold no connection, and one query looks for all of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Generic, Protocol, TypeVar

from tunesmith.service.database.batches import Batches

LOOK_SECONDS: Final = 0.5  # between two looks for one who waits

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


class Places(Protocol):
    """Room for those who wait in this process, until it closes."""

    is_closing: bool

    def require_place(self) -> None:
        """Refuse one too many."""

    def place(self) -> AbstractContextManager[None]:
        """A place, held while somebody waits."""


class Watch(Generic[Key, Found]):
    """One of a process and of a kind of thing. What is told apart is what its clients are shown."""

    def __init__(
        self,
        ask: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Found]]],
        places: Places,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places, self._clock = places, clock
        self._batches: Batches[Key, Found] = Batches(ask)

    async def next_change(self, key: Key, seen: Found, *, seconds: float) -> Found | None:
        """The thing as soon as it is no longer as it was seen, None once it is gone, or `seen` when the time is over.

        Raises:
            TooManyWaiting: as many wait as may.
        """
        self._places.require_place()
        deadline = self._clock() + seconds
        with self._places.place():
            while not self._places.is_closing and (left := deadline - self._clock()) > 0:
                await asyncio.sleep(min(left, LOOK_SECONDS))
                found = await self._batches.get(key)
                if found != seen:
                    return found
        return seen
