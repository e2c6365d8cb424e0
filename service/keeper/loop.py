"""The keeper's loop: which chores are due, and what happens when one fails or the database is away."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.exc import SQLAlchemyError

from tunesmith.service.database.transactions import is_away
from tunesmith.service.keeper.chore import Chore, KeeperContext

log = structlog.get_logger(__name__)


class Keeper:
    """Sweeps every few seconds, and goes on sweeping when the database or the broker is away."""

    def __init__(
        self, context: KeeperContext, chores: Sequence[Chore], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._chores = chores
        self._clock = clock
        self._done_at: dict[str, float] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until `stop` is set."""
        every_seconds = self._context.settings.keeper_seconds
        log.info("keeper.started", every_seconds=every_seconds)
        while not stop.is_set():
            try:
                await self.sweep()
                self._show_that_it_lives()
            except (SQLAlchemyError, OSError) as error:
                log.warning("keeper.sweep_failed", error=type(error).__name__)
            await _wait(stop, seconds=every_seconds)
        log.info("keeper.stopped")

    async def sweep(self) -> None:
        """One round over the chores that are due. It ends early, by raising, when the database is away."""
        for chore in self._chores:
            if self._is_due(chore):
                await self._do(chore)

    def _show_that_it_lives(self) -> None:
        if (file := self._context.settings.keeper_alive_file) is not None:
            file.touch()

    def _is_due(self, chore: Chore) -> bool:
        return self._clock() - self._done_at.get(chore.name, float("-inf")) >= chore.every_seconds

    async def _do(self, chore: Chore) -> None:
        started_at = self._clock()
        try:
            await chore.do(self._context)
        except Exception as error:
            if is_away(error):
                raise
            # A keeper that stops over one odd row leaves every other job unkept.
            log.exception("keeper.chore_failed", chore=chore.name)
        else:
            self._done_at[chore.name] = started_at


async def _wait(stop: asyncio.Event, *, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
