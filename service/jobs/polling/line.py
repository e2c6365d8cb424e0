"""Standings in line: the whole queue in its order and what it waits for, looked at now and then however many ask."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.jobs import store
from tunesmith.service.queue import surroundings
from tunesmith.service.queue.fits import Fits
from tunesmith.service.queue.surroundings import InLine, Standing, Surroundings
from tunesmith.service.settings import Settings
from tunesmith.tuning.state import JobState

FRESH_SECONDS: Final = 1.0
_REST = 10  # a look may cost at most one part in so many of the time
_LONGEST_REST_SECONDS = 10.0  # after one that took long for another reason: a database that was away, a lock


class Line:
    """One of a process. A standing is up to a second old; where looking takes a tenth of one, older.

    A job that has come since the last look stands behind all others until the next.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._now = now
        self._places: dict[str, int] = {}
        self._surroundings: Surroundings | None = None
        self._fits = Fits(clock=clock)
        self._looked_at_line, self._looked_around = Look(clock), Look(clock)
        self._looking = asyncio.Lock()

    async def standings(self, jobs: Sequence[store.JobRow], *, reader: store.Reader) -> dict[str, Standing]:
        """The standing of those jobs that wait.

        A look is made with the caller's `reader`: whoever holds a connection and waits for another may wait for ever.
        """
        waiting = [job for job in jobs if job.state == JobState.QUEUED]
        for job in waiting:
            self._fits.want(job.question_sha256, job.id)
        if waiting and self._is_due([job.id for job in waiting]):
            async with self._looking:
                if self._is_due([job.id for job in waiting]):
                    await self._look(reader)
        return {job.id: self._standing(job.id, job) for job in waiting}

    async def standing(self, job: store.JobRow, *, reader: store.Reader) -> Standing | None:
        """The standing of one job; None unless it waits."""
        return (await self.standings([job], reader=reader)).get(job.id)

    def known_standing(self, job_id: str, job: InLine) -> Standing | None:
        """The standing of a job that waits, from the last look; None if that was too long ago, or did not find it."""
        return None if self._is_due([job_id]) else self._standing(job_id, job)

    def forget(self) -> None:
        """Look again when somebody next asks: this process has moved a job."""
        self._looked_at_line.forget()
        self._looked_around.forget()

    def _standing(self, job_id: str, job: InLine) -> Standing:
        place = self._places.get(job_id, len(self._places) + 1)
        around = self._surroundings
        assert around is not None  # noqa: S101 - the first look comes before the first standing
        fitting = self._fits.of(job.question_sha256, around.slots)
        return Standing(place, around.waits_for(job, place=place, fitting=fitting, at=self._now()))

    def _is_due(self, waiting: Sequence[str]) -> bool:
        is_known = all(job_id in self._places for job_id in waiting)
        return self._looked_at_line.is_due(after_seconds=FRESH_SECONDS if is_known else 0)

    async def _look(self, reader: store.Reader) -> None:
        with self._looked_at_line.taking():
            line = await store.find_line(reader)
        self._places = {job_id: place for place, job_id in enumerate(line, start=1)}
        if self._looked_around.is_due(after_seconds=FRESH_SECONDS):
            with self._looked_around.taking():
                session, settings = _session(reader), self._settings()
                self._surroundings = await surroundings.look(session, settings)
                await self._fits.look(session, self._surroundings.slots, silence=settings.worker_silence)


class Look:
    """When it was last taken, and how long that took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._taken_at = float("-inf")
        self._took_seconds = 0.0

    def is_due(self, *, after_seconds: float) -> bool:
        """Whether it is so old, and has not cost too much."""
        return self._clock() - self._taken_at >= max(
            after_seconds, min(_REST * self._took_seconds, _LONGEST_REST_SECONDS)
        )

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Take it."""
        began_at = self._clock()
        yield
        self._taken_at = self._clock()
        self._took_seconds = self._taken_at - began_at

    def forget(self) -> None:
        """It is due at once."""
        self._taken_at = float("-inf")


def _session(reader: store.Reader) -> AsyncSession:
    """A connection as a session, which leaves it and its transaction alone."""
    return reader if isinstance(reader, AsyncSession) else AsyncSession(bind=reader)
