"""Tokens used, counted in memory and written down now and then: no answer waits for it."""

import asyncio

import structlog

from tunesmith.service.database.transactions import Database
from tunesmith.service.inference import store
from tunesmith.service.inference.used import Used

log = structlog.get_logger(__name__)

_FLUSH_SECONDS = 1.0


class UsageCounter:
    """One of a process. What it has not written yet is lost with it: about a second's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: dict[str, Used] = {}
        self._writing: asyncio.Task[None] | None = None

    def add(self, project: str, used: Used) -> None:
        """Count it soon."""
        self._used[project] = self._used.get(project, Used()) + used
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._flush_soon())

    async def flush(self) -> None:
        """Write down what was counted."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with self._database.transaction() as session:
                await store.add_usage(session, used)
        except Exception as error:  # whatever it was: what was counted is kept for the next time
            log.warning("usage.not_written", projects=len(used), error=type(error).__name__)
            for project, one in used.items():
                self._used[project] = self._used.get(project, Used()) + one

    async def _flush_soon(self) -> None:
        while self._used:  # also what comes while some is being written, or could not be
            await asyncio.sleep(_FLUSH_SECONDS)
            await self.flush()
