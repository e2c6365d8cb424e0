"""From the outbox to the endpoints: which event goes to whom is decided when it is passed on, once."""

from collections.abc import Iterator, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.transactions import Clock
from tunesmith.service.database.webhook_tables import WebhookEndpoint
from tunesmith.service.outbox import store as outbox
from tunesmith.service.webhooks import store
from tunesmith.tuning.values.json_objects import Json


async def fan_out(session: AsyncSession, *, clock: Clock) -> int:
    """Pass on some events that have happened, to the endpoints that are there and want them; return how many events."""
    messages = await outbox.lock_events(session)
    if not messages:
        return 0
    listeners = await store.find_listeners(session, {message.payload["project"] for message in messages})
    pairs = [pair for message in messages for pair in _wanted(message.payload, listeners)]
    await store.add_deliveries(session, pairs, at=await clock(session))
    await outbox.mark_delivered(session, [message.id for message in messages])
    return len(messages)


def _wanted(payload: Json, listeners: Sequence[WebhookEndpoint]) -> Iterator[tuple[WebhookEndpoint, Json]]:
    event = payload["event"]
    for endpoint in listeners:
        if endpoint.project == payload["project"] and event["type"] in endpoint.event_types:
            yield endpoint, event
