"""Fetching the data of firings whose schedule names an address, and keeping it as a file like any other."""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import PurePosixPath
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import File, Firing, Schedule
from tunesmith.service.files import intake
from tunesmith.service.files import store as files
from tunesmith.service.files.intake import Received
from tunesmith.service.projects.limits import check_stored
from tunesmith.service.schedules import store
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.failures import guarded
from tunesmith.service.schedules.fetching.download import Downloads
from tunesmith.service.schedules.schemas import ScheduleSettings
from tunesmith.tuning.words import UNDECIDED

_AT_ONCE = 4
_IN_MEMORY_BYTES = 1024 * 1024
_MARGIN = timedelta(minutes=2)  # for the check of the rows, behind the download's own limit


class DataFetcher:
    """Of one keeper. Bytes move while no transaction is open; what a dead keeper was fetching the next one fetches."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads

    async def fetch_all(self, context: ScheduleContext) -> int:
        """Fetch for every firing that waits for it, a few at a time, and return about how many that was."""
        hold = timedelta(seconds=self._downloads.limit_seconds) + _MARGIN
        async with context.database.transaction() as session:
            at = await context.clock(session)
            taken = await store.take_undecided(session, at=at, hold=hold, limit=_AT_ONCE, is_fetched=False)
        await asyncio.gather(
            *(guarded(context, firing_id, lambda one: self._fetch(context, one)) for firing_id in taken)
        )
        return len(taken)

    async def _fetch(self, context: ScheduleContext, firing_id: str) -> None:
        url = await _address_of(context, firing_id)
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as spooled:
            file = cast(BinaryIO, spooled)
            await self._downloads.fetch(url, file)
            received = await intake.receive(context.database, context.blobs, file, purpose=intake.TRAINING_PURPOSE)
        async with context.database.transaction() as session:
            firing = await store.lock_firing(session, firing_id)
            if firing.state in UNDECIDED and firing.training_file is None:
                await _keep(session, context, firing, received, url=url)


async def _address_of(context: ScheduleContext, firing_id: str) -> str:
    async with context.database.transaction() as session:
        firing = await store.get_firing(session, firing_id)
        schedule = await session.get_one(Schedule, firing.schedule_id)
        return str(ScheduleSettings.model_validate(schedule.settings).data.url)


async def _keep(
    session: AsyncSession, context: ScheduleContext, firing: Firing, received: Received, *, url: str
) -> None:
    """Let the firing train on these bytes. They are one file, however often the same ones come."""
    schedule = await session.get_one(Schedule, firing.schedule_id)
    known = await files.find_with_bytes(session, received.sha256, project=schedule.project)
    file_id = known[-1] if known else (await _record(session, context, received, url=url, project=schedule.project)).id
    at = await context.clock(session)
    firing.training_file = file_id
    firing.source = {"url": url, "sha256": received.sha256, "bytes": received.length_bytes, "file": file_id}
    firing.not_before, firing.code = at, None
    await session.flush()


async def _record(
    session: AsyncSession, context: ScheduleContext, received: Received, *, url: str, project: str
) -> File:
    name = PurePosixPath(urlsplit(url).path).name or "download.jsonl"
    purpose = intake.TRAINING_PURPOSE
    file = await intake.record(session, received, project=project, purpose=purpose, filename=name)
    await check_stored(session, project, limits=context.settings.limits_of(project))
    return file
