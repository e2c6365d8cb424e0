"""The beat of an API process: written from its event loop, so that one that cannot serve does not beat."""

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog

from tunesmith.service.database.transactions import Database, now
from tunesmith.service.leases import store
from tunesmith.service.leases.steadiness import Steadiness

log = structlog.get_logger(__name__)

_GAPS_IN_A_LEASE = 4  # a lease outlives a gap of a quarter of it, with two heartbeats or more to spare


class ApiBeat:
    """Says every few seconds that this process serves, and since when it has done so without a gap."""

    def __init__(
        self,
        database: Database,
        *,
        every_seconds: float,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._every_seconds = every_seconds
        self._clock = clock
        self._process = f"api-{secrets.token_hex(8)}"
        self._steadiness = Steadiness(longest_gap_seconds=lease_seconds / _GAPS_IN_A_LEASE)

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop` is set. A database that is away makes a gap, and no more."""
        missed = 0
        while not stop.is_set():
            try:
                await self.beat()
                missed = 0
            except Exception as error:  # whatever it was: a process that beats no more would hold every lease for ever
                missed += 1
                if missed == 1:
                    log.warning("api_beat.missed", error=type(error).__name__)
            await _wait(stop, seconds=self._every_seconds)

    async def beat(self) -> float:
        """Beat once; returns for how many seconds the process has been steady."""
        async with self._database.transaction() as session:
            at = await now(session)
            steady = self._steadiness.beat(self._clock(), database_seconds=at.timestamp())
            await store.record_beat(session, self._process, at=at, steady_seconds=steady)
        return steady


async def _wait(stop: asyncio.Event, *, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
