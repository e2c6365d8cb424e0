"""Waiting for news of a firing: those who wait hold no connection, and one query looks for all of them."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tunesmith.service.database.batches import Batches
from tunesmith.service.database.transactions import Database
from tunesmith.service.jobs.polling.watcher import JobWatcher
from tunesmith.service.schedules import store
from tunesmith.service.schedules.views import firing_object
from tunesmith.service.web.etags import etag_of
from tunesmith.tuning.api.nightly.schedules import FiringObject
from tunesmith.tuning.words import UNDECIDED, UNDER_WAY

LOOK_SECONDS: Final = 0.5  # between two looks for one who waits


class FiringWatch:
    """One of a process. Those who wait are counted among the watcher's, and let go when it closes."""

    def __init__(self, database: Database, watcher: JobWatcher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database, self._watcher, self._clock = database, watcher, clock
        self._batches: Batches[str, FiringObject] = Batches(self._ask)

    async def next_change(self, seen: FiringObject, *, seconds: float) -> FiringObject:
        """The firing as soon as it is no longer as it was seen, or as it is when the time is over.

        Raises:
            TooManyWaiting: as many wait as may.
        """
        self._watcher.require_place()
        deadline, before = self._clock() + seconds, etag_of(seen.model_dump_json())
        with self._watcher.place():
            while _may_change(seen) and not self._watcher.is_closing and (left := deadline - self._clock()) > 0:
                await asyncio.sleep(min(left, LOOK_SECONDS))
                seen = await self._batches.get(seen.id) or seen
                if etag_of(seen.model_dump_json()) != before:
                    break
        return seen

    async def _ask(self, firing_ids: Sequence[str]) -> Mapping[str, FiringObject]:
        async with self._database.transaction() as session:
            return {firing.id: firing_object(firing) for firing in await store.find_by_ids(session, firing_ids)}


def _may_change(firing: FiringObject) -> bool:
    return firing.state in UNDECIDED or firing.state in UNDER_WAY
