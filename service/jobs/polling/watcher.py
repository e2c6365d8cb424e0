"""Which version each job is at: one query for all who ask, and one watch of a process for all who wait."""

import asyncio
import contextvars
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog

from tunesmith.service.database.batches import Batches
from tunesmith.service.database.tables import Job
from tunesmith.service.database.transactions import Database, is_away
from tunesmith.service.jobs import store
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.state import FINAL_STATES

log = structlog.get_logger(__name__)

FRESH_SECONDS: Final = 0.5  # for so long an answer stands without asking again
TICK_SECONDS: Final = 0.25  # between two looks at the jobs that somebody waits for
_FAILED_SECONDS = 2.0  # until the next look after one that failed for a reason that nobody foresaw
_GATHER_SECONDS = 0.02  # in which changes of this process are gathered for one query
_PER_QUERY = 2000
_KEPT = 20_000  # jobs


class TooManyWaiting(TunesmithError):
    """As many clients as this process takes are waiting for changes."""

    code = ErrorCode.TOO_MANY_WAITING
    http_status = 429


@dataclass(frozen=True, slots=True)
class Sighting:
    """A job as far as those need it who only ask whether something has changed."""

    project: str
    version: int
    event_seq: int
    state: str
    not_before: datetime
    question_sha256: str | None

    @property
    def is_final(self) -> bool:
        """Whether the job can change no more."""
        return self.state in FINAL_STATES

    @property
    def etag(self) -> str:
        """Another one whenever the row has changed. A place in line is no change of the job."""
        return etag(self.version)


def etag(version: int) -> str:
    """The `etag` of a job at this version."""
    return f'W/"{version}"'


@dataclass(slots=True)
class _Watched:
    sighting: Sighting | None = None
    seen_at: float = float("-inf")  # when the query began that saw it
    outdated_at: float = float("-inf")  # when we ourselves last changed it
    waiting: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, sighting: Sighting | None, *, at: float) -> None:
        if at < self.seen_at:
            return  # a query that began later has answered already
        is_news = sighting != self.sighting
        self.sighting, self.seen_at = sighting, at
        if is_news:
            self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def is_fresh(self, *, at: float) -> bool:
        return not self.is_outdated and at - self.seen_at < FRESH_SECONDS

    @property
    def is_outdated(self) -> bool:
        """Whether the last look began before our last change of it."""
        return self.seen_at <= self.outdated_at


class JobWatcher:
    """One of a process. What it says is at most half a second old, and never older than a change made by this process.

    Nobody who waits holds a connection: as long as somebody does, one query every quarter of a second asks for the
    versions of all jobs that are waited for.
    """

    def __init__(self, database: Database, *, most_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._most_waiting = most_waiting
        self.clock = clock
        self._jobs: OrderedDict[str, _Watched] = OrderedDict()
        self._waited_for: dict[str, _Watched] = {}
        self._batches: Batches[str, Sighting] = Batches(self._ask)
        self.waiting = 0
        self._ticking: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.is_closing = False
        database.on_change(Job, self._outdate)

    def known(self, job_id: str) -> Sighting | None:
        """The job, if somebody asked a moment ago."""
        watched = self._jobs.get(job_id)
        return watched.sighting if watched is not None and watched.is_fresh(at=self.clock()) else None

    async def look(self, job_id: str) -> Sighting | None:
        """The job as it is or was a moment ago; None when there is none of this id."""
        watched = self._jobs.get(job_id)
        if watched is None or not watched.is_fresh(at=self.clock()):
            return await self.look_again(job_id)
        self._jobs.move_to_end(job_id)
        return watched.sighting

    async def look_again(self, job_id: str) -> Sighting | None:
        """The job as it is, by a query that begins now, whatever was seen a moment ago."""
        self._jobs.setdefault(job_id, _Watched())
        self._jobs.move_to_end(job_id)
        self._drop_oldest()
        return await self._batches.get(job_id)

    def require_place(self) -> None:
        """Make sure that one more may wait.

        Raises:
            TooManyWaiting: too many do.
        """
        if self.waiting >= self._most_waiting:
            message = f"{self._most_waiting:,} clients already wait for changes here. Ask without waiting, or later."
            raise TooManyWaiting(message)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among those who wait."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def next_change(self, job_id: str, sighting: Sighting, *, seconds: float) -> Sighting | None:
        """The job as soon as it is no longer as in `sighting`, or as it is when the time is over or we close."""
        deadline = self.clock() + seconds
        with self._waiting_for(job_id) as watched:
            if watched.sighting is None:
                await self._batches.get(job_id)
            while watched.sighting == sighting and not self.is_closing and (left := deadline - self.clock()) > 0:
                changed = watched.changed
                try:
                    await asyncio.wait_for(changed.wait(), left)
                except TimeoutError:
                    break
            return watched.sighting

    def close(self) -> None:
        """Let everybody go who waits."""
        self.is_closing = True
        for watched in self._waited_for.values():
            watched.wake()

    @contextmanager
    def _waiting_for(self, job_id: str) -> Iterator[_Watched]:
        watched = self._waited_for.setdefault(job_id, self._jobs.setdefault(job_id, _Watched()))
        watched.waiting += 1
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(), context=contextvars.Context())
        try:
            yield watched
        finally:
            watched.waiting -= 1
            if not watched.waiting:
                del self._waited_for[job_id]

    async def _tick(self) -> None:
        """Until nobody waits any more."""
        looked_at = self.clock()
        try:
            while self._waited_for and not self.is_closing:
                await self._pause(until=looked_at + TICK_SECONDS)
                if self.clock() - looked_at >= TICK_SECONDS:
                    looked_at = self.clock()
                    await self._look_again(list(self._waited_for))
                else:
                    await self._look_again([job_id for job_id, job in self._waited_for.items() if job.is_outdated])
        finally:
            self._ticking = None

    async def _pause(self, *, until: float) -> None:
        """Till then, or till a moment after a change that somebody waits for."""
        try:
            await asyncio.wait_for(self._hurry.wait(), max(0.0, until - self.clock()))
            await asyncio.sleep(_GATHER_SECONDS)
        except TimeoutError:
            pass
        self._hurry.clear()

    async def _look_again(self, job_ids: Sequence[str]) -> None:
        try:
            for first in range(0, len(job_ids), _PER_QUERY):
                await self._ask(job_ids[first : first + _PER_QUERY])
        except Exception as error:
            if is_away(error):  # whoever waits goes on waiting
                log.warning("watcher.database_away", waiting=self.waiting)
                return
            log.exception("watcher.look_failed", waiting=self.waiting)
            await asyncio.sleep(_FAILED_SECONDS)

    async def _ask(self, job_ids: Sequence[str]) -> Mapping[str, Sighting]:
        asked_at = self.clock()
        async with self._database.reading() as connection:
            rows = await store.find_versions(connection, job_ids)
        found = {row.id: Sighting(*row[1:]) for row in rows}
        for job_id in job_ids:
            if (watched := self._jobs.get(job_id)) is not None:
                watched.see(found.get(job_id), at=asked_at)
        return found

    def _outdate(self, job_id: str) -> None:
        """A transaction of this process has changed the job."""
        if (watched := self._jobs.get(job_id)) is not None:
            watched.outdated_at = self.clock()
            if watched.waiting:
                self._hurry.set()

    def _drop_oldest(self) -> None:
        """Of the jobs that nobody waits for."""
        while len(self._jobs) > _KEPT:
            job_id, watched = next(iter(self._jobs.items()))
            if watched.waiting:
                self._jobs.move_to_end(job_id)
                return
            del self._jobs[job_id]
