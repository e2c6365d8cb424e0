"""The chores of schedules, which have sweeps of their own: counting tokens and fetching data take a while."""

from tunesmith.service.keeper.chore import Chore, KeeperContext
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.decide import decide_all
from tunesmith.service.schedules.fetching.addresses import AllowedAddresses
from tunesmith.service.schedules.fetching.download import Downloads
from tunesmith.service.schedules.fetching.fetch import DataFetcher
from tunesmith.service.schedules.judging.gate import judge_all
from tunesmith.service.schedules.judging.settle import settle_all
from tunesmith.service.schedules.record_due import record_due
from tunesmith.service.schedules.retention.old_results import delete_old_results
from tunesmith.service.settings import Settings


def schedule_chores(settings: Settings) -> tuple[Chore, ...]:
    """What is due is recorded before it is decided about, and results are judged before the next job is made."""
    each_sweep = settings.keeper_seconds
    return (
        Chore("record due times", _record, every_seconds=each_sweep),
        Chore("settle firings", _settle, every_seconds=each_sweep),
        Chore("judge results", _judge, every_seconds=each_sweep),
        Chore("decide about firings", _decide, every_seconds=each_sweep),
        Chore("delete old results", _delete_old, every_seconds=600),
    )


def fetching_chores(settings: Settings) -> tuple[Chore, ...]:
    """Data that schedules take from an address."""
    downloads = Downloads(
        AllowedAddresses.of(settings),
        limit_bytes=settings.max_upload_bytes,
        limit_seconds=settings.dataset_seconds,
    )
    fetcher = DataFetcher(downloads)

    async def fetch(context: KeeperContext) -> int:
        return await fetcher.fetch_all(schedule_context(context))

    return (Chore("fetch data of schedules", fetch, every_seconds=settings.keeper_seconds),)


def schedule_context(context: KeeperContext) -> ScheduleContext:
    """With the database's clock."""
    return ScheduleContext(context.settings, context.database, context.blobs)


async def _record(context: KeeperContext) -> int:
    return await record_due(schedule_context(context))


async def _settle(context: KeeperContext) -> int:
    return await settle_all(schedule_context(context))


async def _judge(context: KeeperContext) -> int:
    return await judge_all(schedule_context(context))


async def _decide(context: KeeperContext) -> int:
    return await decide_all(schedule_context(context))


async def _delete_old(context: KeeperContext) -> int:
    return await delete_old_results(schedule_context(context))
