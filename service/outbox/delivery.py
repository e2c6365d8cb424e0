"""Delivering what is due: by the API after its commit, and by the keeper whatever is left."""

import asyncio
import contextvars
from collections import Counter
from collections.abc import Iterable

import structlog
from starlette.concurrency import run_in_threadpool

from tunesmith.service.announcer import Announcer
from tunesmith.service.database.transactions import Database
from tunesmith.service.outbox import store
from tunesmith.service.wakes import store as wakes
from tunesmith.tuning.errors import brief

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.2  # between two deliveries: in a burst of jobs one wakes for many


async def deliver(database: Database, announcer: Announcer) -> int:
    """Deliver what is due and return how much went out. No transaction is open while anything is sent.

    Messages that say the same go out as one; for workers that ask over HTTP each is counted.
    """
    async with database.transaction() as session:
        messages = await store.take_due(session)
        classes = Counter(str(message.payload["worker_class"]) for message in messages)
        await wakes.add(session, classes)
    if not messages:
        return 0
    woken = await run_in_threadpool(_wake_all, classes, announcer)
    delivered = [message.id for message in messages if message.payload["worker_class"] in woken]
    if delivered:
        async with database.transaction() as session:
            await store.mark_delivered(session, delivered)
    return len(delivered)


class Deliveries:
    """One of a process: what comes during one delivery, and in the pause after it, is the next one's, all together."""

    def __init__(self, database: Database, announcer: Announcer, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._database = database
        self._announcer = announcer
        self._pause_seconds = pause_seconds
        self._is_wanted = False
        self._task: asyncio.Task[None] | None = None

    async def soon(self) -> None:
        """Deliver, for after a commit. Returns at once; failing costs nothing, for the keeper delivers what is left."""
        self._is_wanted = True
        if self._task is None:
            self._task = asyncio.create_task(self._deliver(), context=contextvars.Context())

    async def _deliver(self) -> None:
        try:
            while self._is_wanted:
                self._is_wanted = False
                await deliver(self._database, self._announcer)
                await asyncio.sleep(self._pause_seconds)
        except Exception as error:  # whatever it was: the keeper delivers what is left
            log.warning("outbox.delivery_postponed", error=brief(error))
        finally:
            self._task = None


def _wake_all(worker_classes: Iterable[str], announcer: Announcer) -> set[str]:
    return {worker_class for worker_class in worker_classes if announcer.wake(worker_class)}
