"""Queries about webhook endpoints and what is on its way to them."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.webhook_tables import WebhookDelivery, WebhookEndpoint
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import NotFound
from tunesmith.tuning.values.json_objects import Json

_KEPT = text("interval '30 days'")  # deliveries that have ended


async def count_of(session: AsyncSession, project: str) -> int:
    """How many endpoints the project has; whoever adds one waits for others that do."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"webhooks of {project}", 0))))
    query = select(func.count()).where(WebhookEndpoint.project == project)
    return (await session.execute(query)).scalar_one()


async def find(session: AsyncSession, endpoint_id: str, *, project: str, lock: bool = False) -> WebhookEndpoint:
    """The endpoint of this project.

    Raises:
        NotFound: there is none, or it is another project's.
    """
    query = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project == project)
    endpoint = (await session.execute(query.with_for_update(key_share=True) if lock else query)).scalar_one_or_none()
    if endpoint is None:
        message = f"No webhook endpoint {endpoint_id!r:.80}."
        raise NotFound(message, code=ErrorCode.WEBHOOK_ENDPOINT_NOT_FOUND, param="webhook_endpoint_id")
    return endpoint


async def find_many(session: AsyncSession, *, project: str, after: str | None, limit: int) -> list[WebhookEndpoint]:
    """Up to `limit` endpoints of the project behind `after`, newest first.

    Raises:
        NotFound: `after` is no endpoint of the project.
    """
    query = select(WebhookEndpoint).where(WebhookEndpoint.project == project)
    if after is not None:
        query = query.where(WebhookEndpoint.id < (await find(session, after, project=project)).id)
    return list((await session.execute(query.order_by(WebhookEndpoint.id.desc()).limit(limit))).scalars())


async def find_deliveries(
    session: AsyncSession, endpoint_id: str, *, after: str | None, limit: int
) -> list[WebhookDelivery]:
    """Up to `limit` deliveries to the endpoint behind `after`, newest first.

    Raises:
        NotFound: `after` is no delivery to it.
    """
    query = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id)
    if after is not None:
        start = await session.get(WebhookDelivery, after)
        if start is None or start.endpoint_id != endpoint_id:
            raise _no_such_delivery(after, endpoint_id)
        query = query.where(WebhookDelivery.id < after)
    return list((await session.execute(query.order_by(WebhookDelivery.id.desc()).limit(limit))).scalars())


async def find_delivery(session: AsyncSession, delivery_id: str, *, endpoint_id: str) -> WebhookDelivery:
    """One delivery to the endpoint, locked.

    Raises:
        NotFound: nothing was sent to it under this id.
    """
    delivery = await lock_delivery(session, delivery_id)
    if delivery is None or delivery.endpoint_id != endpoint_id:
        raise _no_such_delivery(delivery_id, endpoint_id)
    return delivery


async def lock_delivery(session: AsyncSession, delivery_id: str) -> WebhookDelivery | None:
    """The delivery, locked; None when its endpoint was deleted."""
    query = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id).with_for_update()
    return (await session.execute(query)).scalar_one_or_none()


async def lock_endpoint(session: AsyncSession, endpoint_id: str) -> WebhookEndpoint | None:
    """The endpoint, locked; None when it was deleted."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id).with_for_update(key_share=True)
    return (await session.execute(query)).scalar_one_or_none()


async def find_listeners(session: AsyncSession, projects: Collection[str]) -> list[WebhookEndpoint]:
    """The endpoints of these projects that are enabled."""
    query = select(WebhookEndpoint).where(
        WebhookEndpoint.project.in_(projects), WebhookEndpoint.disabled_reason.is_(None)
    )
    return list((await session.execute(query)).scalars())


async def add_deliveries(session: AsyncSession, pairs: Sequence[tuple[WebhookEndpoint, Json]], *, at: datetime) -> None:
    """Each event on its way to its endpoint; one that already is stays as it is."""
    rows = [
        {
            "id": new_id("delivery"),
            "endpoint_id": endpoint.id,
            "event_id": event["id"],
            "event": event,
            "not_before": at,
        }
        for endpoint, event in pairs
    ]
    if rows:
        await session.execute(insert(WebhookDelivery).on_conflict_do_nothing(), rows)


async def take_lanes(session: AsyncSession, *, at: datetime, until: datetime, limit: int) -> list[str]:
    """Ids of endpoints that something is due for, which nobody else sends to until then: the longest unserved first."""
    due = exists().where(
        WebhookDelivery.endpoint_id == WebhookEndpoint.id,
        WebhookDelivery.status == "waiting",
        WebhookDelivery.not_before <= at,
    )
    free = (
        select(WebhookEndpoint.id)
        .where(WebhookEndpoint.busy_until <= at, WebhookEndpoint.disabled_reason.is_(None), due)
        .order_by(WebhookEndpoint.busy_until, WebhookEndpoint.id)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    take = update(WebhookEndpoint).where(WebhookEndpoint.id.in_(free)).values(busy_until=until)
    taken = await session.execute(take.returning(WebhookEndpoint.id).execution_options(synchronize_session=False))
    return list(taken.scalars())


async def next_due(session: AsyncSession, endpoint_id: str, *, at: datetime) -> WebhookDelivery | None:
    """What has waited longest for this endpoint, if anything is due."""
    query = (
        select(WebhookDelivery)
        .where(
            WebhookDelivery.endpoint_id == endpoint_id,
            WebhookDelivery.status == "waiting",
            WebhookDelivery.not_before <= at,
        )
        .order_by(WebhookDelivery.not_before, WebhookDelivery.id)
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def prune(session: AsyncSession) -> None:
    """Forget deliveries that ended a month ago, and those that have waited so long for a disabled endpoint."""
    old = delete(WebhookDelivery).where(WebhookDelivery.created_at < func.now() - _KEPT)
    await session.execute(old.execution_options(synchronize_session=False))


def _no_such_delivery(delivery_id: str, endpoint_id: str) -> NotFound:
    message = f"No delivery {delivery_id!r:.80} to {endpoint_id}."
    return NotFound(message, code=ErrorCode.WEBHOOK_DELIVERY_NOT_FOUND, param="delivery_id")
