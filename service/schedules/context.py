"""What deciding about firings works with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from secrets import randbelow

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.settings import Settings

Clock = Callable[[AsyncSession], Awaitable[datetime]]


def any_seed() -> int:
    """For a job that names none."""
    return randbelow(2**31)


@dataclass(frozen=True)
class ScheduleContext:
    """Each step opens its own transactions, none of them while bytes move. The clock is the database's unless given."""

    settings: Settings
    database: Database
    blobs: BlobStore
    clock: Clock = now
    draw_seed: Callable[[], int] = any_seed
