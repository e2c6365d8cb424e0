"""Everything that the keeper does beside schedules and webhooks, and how often."""

from datetime import timedelta

from tunesmith.service.idempotency import store as idempotency
from tunesmith.service.keeper.chore import Chore, KeeperContext
from tunesmith.service.keeper.expired_leases import HoldNotice, end_expired_leases
from tunesmith.service.keeper.overdue_jobs import end_overdue_jobs
from tunesmith.service.keeper.unneeded_bytes import delete_unneeded_bytes
from tunesmith.service.keeper.waiting_jobs import wake_for_waiting_jobs
from tunesmith.service.leases import store as leases
from tunesmith.service.outbox import store as outbox
from tunesmith.service.outbox.delivery import deliver
from tunesmith.service.schedules.retention import store as retention
from tunesmith.service.settings import Settings
from tunesmith.service.webhooks import store as webhooks

_MOST_TIMES = 100  # that one prune asks for old firings: the next one goes on


def every_chore(settings: Settings) -> tuple[Chore, ...]:
    """In the order in which a sweep does them."""
    each_sweep = settings.keeper_seconds
    return (
        Chore("end expired leases", end_expired_leases, every_seconds=each_sweep),
        Chore("tell when leases are held", HoldNotice().look, every_seconds=each_sweep),
        Chore("end jobs at their deadline", end_overdue_jobs, every_seconds=each_sweep),
        Chore("deliver the outbox", deliver_outbox, every_seconds=each_sweep),
        Chore("wake workers for waiting jobs", wake_for_waiting_jobs, every_seconds=each_sweep),
        Chore("forget what is over", prune, every_seconds=600),
    )


def store_chores() -> tuple[Chore, ...]:
    """What waits for the object store: by itself, so that one that does not answer holds up no lease."""
    return (Chore("delete unneeded bytes", delete_unneeded_bytes, every_seconds=600),)


async def deliver_outbox(context: KeeperContext) -> int:
    """Send what the API could not send after its commit, and return how much went out."""
    return await deliver(context.database, context.announcer)


async def prune(context: KeeperContext) -> None:
    """Delete old messages, idempotency keys, beats of processes that have long ended, and old firings."""
    async with context.database.transaction() as session:
        await outbox.prune(session)
        await leases.prune(session)
        await idempotency.prune(session)
        await webhooks.prune(session)
    await _forget_old_firings(context)


async def _forget_old_firings(context: KeeperContext) -> None:
    """Some at a time, so that no transaction is long."""
    older_than = timedelta(days=context.settings.firing_days)
    for _ in range(_MOST_TIMES):
        async with context.database.transaction() as session:
            if not await retention.prune_firings(session, older_than=older_than):
                return
