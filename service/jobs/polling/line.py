"""Places in line: the whole queue in its order, looked at now and then however many ask."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from tunesmith.service.jobs import store
from tunesmith.tuning.state import JobState

FRESH_SECONDS: Final = 1.0
_REST = 10  # a look may cost at most one part in so many of the time


class Line:
    """One of a process. A place is up to a second old; with a queue so long that looking takes a tenth of one, older.

    A job that has come since the last look stands behind all others until the next.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: dict[str, int] = {}
        self._looked_at = float("-inf")
        self._took_seconds = 0.0
        self._looking = asyncio.Lock()

    async def places(self, jobs: Sequence[store.JobRow], *, reader: store.Reader) -> dict[str, int]:
        """The place, from 1, of those jobs that wait.

        A look is made with the caller's `reader`: whoever holds a connection and waits for another may wait for ever.
        """
        waiting = [job.id for job in jobs if job.state == JobState.QUEUED]
        if waiting and self._is_due(waiting):
            async with self._looking:
                if self._is_due(waiting):
                    await self._look(reader)
        return {job_id: self._places.get(job_id, len(self._places) + 1) for job_id in waiting}

    async def place(self, job: store.JobRow, *, reader: store.Reader) -> int | None:
        """The place of one job; None unless it waits."""
        return (await self.places([job], reader=reader)).get(job.id)

    def known_place(self, job_id: str) -> int | None:
        """Its place as the last look found it; None if that was too long ago, or did not find it."""
        return None if self._is_due([job_id]) else self._places.get(job_id)

    def _is_due(self, waiting: Sequence[str]) -> bool:
        age_seconds = self._clock() - self._looked_at
        is_old = age_seconds >= FRESH_SECONDS or any(job_id not in self._places for job_id in waiting)
        return is_old and age_seconds >= _REST * self._took_seconds

    async def _look(self, reader: store.Reader) -> None:
        began_at = self._clock()
        line = await store.find_line(reader)
        self._places = {job_id: place for place, job_id in enumerate(line, start=1)}
        self._looked_at = self._clock()
        self._took_seconds = self._looked_at - began_at
