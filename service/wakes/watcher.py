"""Workers that wait for a wake-up: one query every quarter of a second for all of them, and no connection each."""

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from tunesmith.service.database.batches import Batches
from tunesmith.service.database.transactions import Database, is_away
from tunesmith.service.wakes import store

log = structlog.get_logger(__name__)

TICK_SECONDS: Final = 0.25
_FAILED_SECONDS = 2.0  # until the next look after one that failed for a reason that nobody foresaw


@dataclass(frozen=True)
class Woken:
    """The count that was seen, and how many wake-ups are for whoever waited."""

    seen: int
    wakes: int


@dataclass
class _Class:
    seen: int
    seen_at: float  # when the query began that saw it
    waiting: list[asyncio.Future[Woken]] = field(default_factory=list)

    def see(self, count: int, *, at: float) -> None:
        """Give new wake-ups to as many as there are of them, who came last first: who came long ago may have left."""
        if at < self.seen_at:
            return  # a query that began later has answered already
        fresh, self.seen, self.seen_at = count - self.seen, count, at
        if fresh == 0:
            return
        woken = self.waiting if fresh < 0 else self.waiting[-fresh:]  # fewer than before: another database
        each = max(1, math.ceil(fresh / max(1, len(woken))))
        for future in list(woken):
            self.waiting.remove(future)
            _answer(future, Woken(count, each))

    def let_go(self) -> None:
        for future in self.waiting:
            _answer(future, Woken(self.seen, 0))
        self.waiting.clear()


class WakeWatcher:
    """One of a process."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._classes: dict[str, _Class] = {}
        self._batches: Batches[str, int] = Batches(self._ask)
        self._ticking: asyncio.Task[None] | None = None
        self._is_closing = False

    async def next_wake(self, worker_class: str, *, seen: int | None, seconds: float) -> Woken:
        """Wake-ups beyond `seen`, as soon as there are any, or none when the time is over.

        Who has seen nothing yet is woken at once: something may wait since before it came.
        """
        at = self._clock()
        count = await self._batches.get(worker_class) or 0
        if seen is None or seen != count:
            return Woken(count, max(1, count - (count if seen is None else seen)))
        if self._is_closing or seconds <= 0:
            return Woken(count, 0)
        watched = self._classes.setdefault(worker_class, _Class(count, at))
        return await self._wait(watched, seconds=seconds)

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return sum(len(one.waiting) for one in self._classes.values())

    def close(self) -> None:
        """Let everybody go who waits."""
        self._is_closing = True
        for one in self._classes.values():
            one.let_go()

    async def _wait(self, watched: _Class, *, seconds: float) -> Woken:
        future: asyncio.Future[Woken] = asyncio.get_running_loop().create_future()
        watched.waiting.append(future)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(), context=contextvars.Context())
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return Woken(watched.seen, 0)
        finally:
            if future in watched.waiting:
                watched.waiting.remove(future)

    async def _tick(self) -> None:
        """Until nobody waits any more."""
        try:
            while self.waiting and not self._is_closing:
                await asyncio.sleep(TICK_SECONDS)
                self._classes = {name: one for name, one in self._classes.items() if one.waiting}
                await self._look()
        finally:
            self._ticking = None

    async def _look(self) -> None:
        try:
            await self._ask(list(self._classes))
        except Exception as error:
            if is_away(error):  # whoever waits goes on waiting
                log.warning("wakes.database_away", waiting=self.waiting)
                return
            log.exception("wakes.look_failed", waiting=self.waiting)
            await asyncio.sleep(_FAILED_SECONDS)

    async def _ask(self, worker_classes: Sequence[str]) -> Mapping[str, int]:
        asked_at = self._clock()
        async with self._database.reading() as connection:
            counts = await store.read(connection, worker_classes)
        for name in worker_classes:
            if (watched := self._classes.get(name)) is not None:
                watched.see(counts.get(name, 0), at=asked_at)
        return counts


def _answer(future: asyncio.Future[Woken], woken: Woken) -> None:
    if not future.done():  # whoever waited may have left just now
        future.set_result(woken)
