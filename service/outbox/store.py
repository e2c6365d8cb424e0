"""Queries about messages that wait to be sent."""

from collections.abc import Iterable

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import OutboxMessage

_WAKE = "wake"
_BATCH = 50
_TAKEN_SECONDS = 30  # how long one copy has for a message before another tries it


def wake_later(session: AsyncSession, worker_classes: Iterable[str]) -> None:
    """Record that workers of these classes should be woken once this transaction is committed."""
    for worker_class in worker_classes:
        session.add(OutboxMessage(topic=_WAKE, payload={"worker_class": worker_class}))


async def take_due(session: AsyncSession) -> list[OutboxMessage]:
    """Some messages that are due, which no other copy takes for the next half minute."""
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


async def mark_delivered(session: AsyncSession, message_ids: list[int]) -> None:
    """These messages went out."""
    done = update(OutboxMessage).where(OutboxMessage.id.in_(message_ids)).values(delivered_at=func.now())
    await session.execute(done)


async def prune(session: AsyncSession) -> None:
    """Forget what was delivered a day ago, and wake-ups that nobody could be told of for an hour."""
    old = "delivered_at < now() - interval '1 day' OR (topic = 'wake' AND created_at < now() - interval '1 hour')"
    await session.execute(delete(OutboxMessage).where(text(old)).execution_options(synchronize_session=False))
