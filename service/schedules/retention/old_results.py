"""Deleting results that nobody needs any more, of schedules that keep only so many."""

import structlog

from tunesmith.service.artifacts import store as artifacts
from tunesmith.service.schedules.context import ScheduleContext
from tunesmith.service.schedules.retention import store

log = structlog.get_logger(__name__)

_AT_ONCE = 100


async def delete_old_results(context: ScheduleContext) -> int:
    """Delete them, each in a transaction of its own, and return how many there were.

    Whether something needs a model is asked again under its lock: whoever begins to need one locks it too.
    """
    async with context.database.transaction() as session:
        old = await store.find_old(session, limit=_AT_ONCE)
    deleted = 0
    for name in old:
        async with context.database.transaction() as session:
            model = await store.lock_if_unneeded(session, name)
            if model is None:
                continue
            if model.job_id is not None:
                await artifacts.let_go_of_results(session, model.job_id)
            await session.delete(model)
            deleted += 1
    if deleted:
        log.info("results.deleted", models=deleted)
    return deleted
