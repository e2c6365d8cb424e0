"""Telling the outside world after the commit: recorded with the change, delivered until it works."""

from collections.abc import Iterable

import structlog
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool

from tunesmith.service.announcer import Announcer
from tunesmith.service.database.tables import OutboxMessage
from tunesmith.service.database.transactions import Database

log = structlog.get_logger(__name__)

WAKE = "wake"
_BATCH = 50
_TAKEN_SECONDS = 30  # how long one copy has for a message before another tries it


def wake_later(session: AsyncSession, worker_classes: Iterable[str]) -> None:
    """Record that workers of these classes should be woken once this transaction is committed."""
    for worker_class in worker_classes:
        session.add(OutboxMessage(topic=WAKE, payload={"worker_class": worker_class}))


async def deliver(database: Database, announcer: Announcer) -> int:
    """Deliver what is due and return how much went out. No transaction is open while anything is sent."""
    async with database.transaction() as session:
        messages = await _take(session)
    delivered = [message.id for message in messages if await run_in_threadpool(_send, message, announcer)]
    if delivered:
        async with database.transaction() as session:
            done = update(OutboxMessage).where(OutboxMessage.id.in_(delivered)).values(delivered_at=func.now())
            await session.execute(done)
    return len(delivered)


async def deliver_soon(database: Database, announcer: Announcer) -> None:
    """Deliver now, for after a commit. Failing costs nothing: the keeper delivers what is left."""
    try:
        await deliver(database, announcer)
    except SQLAlchemyError as error:
        log.warning("outbox.delivery_postponed", error=type(error).__name__)


async def prune(session: AsyncSession) -> None:
    """Forget what was delivered a day ago, and wake-ups that nobody could be told of for an hour."""
    old = "delivered_at < now() - interval '1 day' OR (topic = 'wake' AND created_at < now() - interval '1 hour')"
    await session.execute(delete(OutboxMessage).where(text(old)).execution_options(synchronize_session=False))


async def _take(session: AsyncSession) -> list[OutboxMessage]:
    due = (
        select(OutboxMessage)
        .where(OutboxMessage.delivered_at.is_(None), OutboxMessage.not_before <= func.now())
        .order_by(OutboxMessage.id)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    messages = list((await session.execute(due)).scalars())
    taken = func.now() + text(f"interval '{_TAKEN_SECONDS} seconds'")
    await session.execute(
        update(OutboxMessage)
        .where(OutboxMessage.id.in_([message.id for message in messages]))
        .values(not_before=taken, tries=OutboxMessage.tries + 1)
        .execution_options(synchronize_session=False)
    )
    return messages


def _send(message: OutboxMessage, announcer: Announcer) -> bool:
    return announcer.wake(message.payload["worker_class"])
