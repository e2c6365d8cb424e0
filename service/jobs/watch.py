"""Looking at a job until it changes, so that a client that waits for it asks once a minute and not all the time."""

import asyncio
import time
from dataclasses import dataclass

from tunesmith.service.database.tables import Job
from tunesmith.service.database.transactions import Database
from tunesmith.service.jobs import store
from tunesmith.tuning.state import FINAL_STATES

_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Seen:
    """A job as it was at one moment; `queue_position` is from 1 while it waits."""

    job: Job
    queue_position: int | None

    @property
    def etag(self) -> str:
        """Another one whenever something that the API shows has changed."""
        return f'W/"{self.job.version}-{self.queue_position or 0}"'


async def watch(database: Database, job_id: str, *, project: str, known_etag: str | None, wait_seconds: float) -> Seen:
    """The job as soon as it is no longer as `known_etag` says, or when the time is over or it can change no more.

    No transaction is open between two looks.

    Raises:
        NotFound: no such job here.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        seen = await _look(database, job_id, project=project)
        if seen.etag != known_etag or seen.job.state in FINAL_STATES or time.monotonic() >= deadline:
            return seen
        await asyncio.sleep(_POLL_SECONDS)


async def _look(database: Database, job_id: str, *, project: str) -> Seen:
    async with database.transaction() as session:
        job = await store.find(session, job_id, project=project)
        positions = await store.queue_positions(session, [job])
        return Seen(job, positions.get(job.id))
