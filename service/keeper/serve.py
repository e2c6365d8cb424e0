"""`tunesmith-service keeper`: one process that does all chores until it is told to end."""

import asyncio
import signal

from tunesmith.service.announcer import announcer_for
from tunesmith.service.blobs.objects import BlobStore
from tunesmith.service.database.transactions import Database, create_engine
from tunesmith.service.keeper.chore import KeeperContext
from tunesmith.service.keeper.chores import every_chore, store_chores
from tunesmith.service.keeper.loop import Keeper
from tunesmith.service.keeper.schedules import fetching_chores, schedule_chores
from tunesmith.service.settings import Settings
from tunesmith.service.webhooks.courier import Courier
from tunesmith.service.webhooks.sending import Sender


async def keep(settings: Settings) -> None:
    """Do every chore at its time until SIGTERM or SIGINT; what is under way is finished."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    database = _database(settings, pool_size=12)
    for_webhooks = _database(settings, pool_size=4)  # of their own: no receiver holds up a lease
    try:
        blobs = BlobStore.from_url(settings.store, signed_downloads=settings.signed_downloads)
        context = KeeperContext(settings, database, announcer_for(settings.redis_url), blobs)
        courier = Courier(for_webhooks, Sender.of(settings), every_seconds=min(1.0, settings.keeper_seconds))
        kinds = (every_chore(settings), store_chores(), schedule_chores(settings), fetching_chores(settings))
        await asyncio.gather(*(Keeper(context, chores).run(stop) for chores in kinds), courier.run(stop))
    finally:
        await for_webhooks.close()
        await database.close()


def _database(settings: Settings, *, pool_size: int) -> Database:
    return Database(create_engine(settings.database_url, pool_size=pool_size, pool_wait_seconds=5))
