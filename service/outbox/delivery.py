"""Delivering what is due: by the API after its commit, and by the keeper whatever is left."""

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from tunesmith.service.announcer import Announcer
from tunesmith.service.database.tables import OutboxMessage
from tunesmith.service.database.transactions import Database
from tunesmith.service.outbox import store

log = structlog.get_logger(__name__)


async def deliver(database: Database, announcer: Announcer) -> int:
    """Deliver what is due and return how much went out. No transaction is open while anything is sent."""
    async with database.transaction() as session:
        messages = await store.take_due(session)
    delivered = [message.id for message in messages if await run_in_threadpool(_send, message, announcer)]
    if delivered:
        async with database.transaction() as session:
            await store.mark_delivered(session, delivered)
    return len(delivered)


async def deliver_soon(database: Database, announcer: Announcer) -> None:
    """Deliver now, for after a commit. Failing costs nothing: the keeper delivers what is left."""
    try:
        await deliver(database, announcer)
    except SQLAlchemyError as error:
        log.warning("outbox.delivery_postponed", error=type(error).__name__)


def _send(message: OutboxMessage, announcer: Announcer) -> bool:
    return announcer.wake(message.payload["worker_class"])
