"""Queries about messages that wait to be sent."""

import json
from collections.abc import Sequence

from sqlalchemy import Row, delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.tables import OutboxMessage
from tunesmith.tuning.values.json_objects import Json

_WAKE = "wake"
_EVENT = "event"
_BATCH = 500
_LARGEST_EVENT_BYTES = 20_000
_TAKEN_SECONDS = 30  # how long one copy has for a message before another tries it


_DUE = (
    select(OutboxMessage.id)
    .where(OutboxMessage.topic == _WAKE, OutboxMessage.delivered_at.is_(None), OutboxMessage.not_before <= func.now())
    .order_by(OutboxMessage.id)
    .limit(_BATCH)
    .with_for_update(skip_locked=True)
)
_TAKE_DUE = (
    update(OutboxMessage)
    .where(OutboxMessage.id.in_(_DUE))
    .values(not_before=func.now() + text(f"interval '{_TAKEN_SECONDS} seconds'"), tries=OutboxMessage.tries + 1)
    .returning(OutboxMessage.id, OutboxMessage.payload)
)
_WAKE_LATER = text(
    "INSERT INTO outbox (topic, payload) SELECT 'wake', jsonb_build_object('worker_class', worker_class)"
    " FROM unnest(CAST(:classes AS text[])) AS worker_class"
)


async def wake_later(session: AsyncSession, worker_classes: Sequence[str]) -> None:
    """Record that workers of these classes should be woken once this transaction is committed, each for one job."""
    if worker_classes:
        await session.execute(_WAKE_LATER, {"classes": list(worker_classes)})


def tell_later(session: AsyncSession, event: Json, *, project: str) -> None:
    """Record an event, in the form that webhooks send, in the transaction that makes it true.

    What becomes of jobs is recorded by the database itself. An event names things and does not carry them.

    Raises:
        ValueError: it is larger than receivers take.
    """
    if len(json.dumps(event).encode()) > _LARGEST_EVENT_BYTES:
        raise ValueError(f"An event has at most {_LARGEST_EVENT_BYTES:,} bytes.")
    session.add(OutboxMessage(topic=_EVENT, payload={"project": project, "event": event}))


async def lock_events(session: AsyncSession) -> Sequence[Row[int, Json]]:
    """`id` and `payload` of some events that nobody has passed on, locked so that no other copy sees them."""
    query = (
        select(OutboxMessage.id, OutboxMessage.payload)
        .where(OutboxMessage.topic == _EVENT, OutboxMessage.delivered_at.is_(None))
        .order_by(OutboxMessage.id)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    return (await session.execute(query)).all()


async def take_due(session: AsyncSession) -> Sequence[Row[int, Json]]:
    """`id` and `payload` of some wake-ups that are due, which no other copy takes for the next half minute."""
    taken = await session.execute(_TAKE_DUE, execution_options={"synchronize_session": False})
    return taken.all()


async def mark_delivered(session: AsyncSession, message_ids: list[int]) -> None:
    """These messages went out."""
    done = update(OutboxMessage).where(OutboxMessage.id.in_(message_ids)).values(delivered_at=func.now())
    await session.execute(done)


async def prune(session: AsyncSession) -> None:
    """Forget what was delivered a day ago, and wake-ups that nobody could be told of for an hour."""
    old = "delivered_at < now() - interval '1 day' OR (topic = 'wake' AND created_at < now() - interval '1 hour')"
    await session.execute(delete(OutboxMessage).where(text(old)).execution_options(synchronize_session=False))
