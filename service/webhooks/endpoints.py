"""What a member does with the endpoints of a project: make, change, give a new secret, try, send again."""

import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.database.ids import new_id
from tunesmith.service.database.transactions import Database, now
from tunesmith.service.database.webhook_tables import WebhookDelivery, WebhookEndpoint
from tunesmith.service.webhooks import store
from tunesmith.service.webhooks.guard import Guard
from tunesmith.service.webhooks.sending import Outcome, Sender, new_signing_secret
from tunesmith.tuning.api.requests.webhooks import EndpointCreate, EndpointUpdate
from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest, LimitReached
from tunesmith.tuning.values.json_objects import Json, present
from tunesmith.tuning.words import WebhookEventType

MOST_ENDPOINTS = 20  # of a project
_OLD_SECRET_LIVES = timedelta(hours=24)
_BY_HAND = "Disabled by a member of the project."

RandomBytes = Callable[[int], bytes]


async def create(
    database: Database,
    request: EndpointCreate,
    *,
    project: str,
    guard: Guard,
    random: RandomBytes = secrets.token_bytes,
) -> WebhookEndpoint:
    """Record an endpoint with a new secret.

    Raises:
        InvalidRequest: its URL is none that webhooks may be sent to.
        LimitReached: the project has as many as it may.
    """
    await guard.check(request.url)  # asks a server of names: no transaction is open meanwhile
    async with database.transaction() as session:
        if await store.count_of(session, project) >= MOST_ENDPOINTS:
            raise LimitReached(
                f"The project {project!r} has {MOST_ENDPOINTS} webhook endpoints, the most that it may have.",
                code=ErrorCode.TOO_MANY_WEBHOOK_ENDPOINTS,
                hint="Delete one, or let one receiver pass events on to others.",
            )
        endpoint = WebhookEndpoint(
            id=new_id("webhook"),
            project=project,
            name=request.name,
            url=request.url,
            event_types=_words(request.event_types),
            secret=new_signing_secret(random),
        )
        session.add(endpoint)
        await session.flush()
        return endpoint


async def change(
    database: Database, endpoint_id: str, request: EndpointUpdate, *, project: str, guard: Guard
) -> WebhookEndpoint:
    """Change what the request names. An endpoint that is enabled again begins without a past.

    Raises:
        NotFound: no such endpoint here.
        InvalidRequest: its URL is none that webhooks may be sent to.
    """
    if request.url is not None:
        await guard.check(request.url)
    async with database.transaction() as session:
        endpoint = await store.find(session, endpoint_id, project=project, lock=True)
        types = None if request.event_types is None else _words(request.event_types)
        changes = present(name=request.name, url=request.url, event_types=types)
        if request.tunesmith.enabled is False:
            changes["disabled_reason"] = endpoint.disabled_reason or _BY_HAND
        elif request.tunesmith.enabled:
            endpoint.failing_since = None
            changes["disabled_reason"] = None
        await _apply(session, endpoint, changes)
        return endpoint


async def rotate_secret(
    session: AsyncSession,
    endpoint_id: str,
    *,
    project: str,
    keep_old: bool,
    random: RandomBytes = secrets.token_bytes,
) -> WebhookEndpoint:
    """Give the endpoint a new secret; the old one may sign beside it for a day.

    Raises:
        NotFound: no such endpoint here.
    """
    endpoint = await store.find(session, endpoint_id, project=project, lock=True)
    at = await now(session)
    endpoint.previous_secret = endpoint.secret if keep_old else None
    endpoint.previous_secret_until = at + _OLD_SECRET_LIVES if keep_old else None
    endpoint.secret = new_signing_secret(random)
    endpoint.updated_at = at
    await session.flush()
    return endpoint


async def try_out(database: Database, endpoint_id: str, event_type: str, *, project: str, sender: Sender) -> Outcome:
    """Send an event that is made up, now, whether the endpoint is enabled or not.

    Raises:
        NotFound: no such endpoint here.
        InvalidRequest: no HTTP answer came.
    """
    async with database.transaction() as session:
        endpoint = await store.find(session, endpoint_id, project=project)
        at = await now(session)
    event: Json = {
        "id": new_id("evt"),
        "object": "event",
        "created_at": int(at.timestamp()),
        "type": event_type,
        "data": {"id": "ftjob-test"},
    }
    outcome = await sender.send(endpoint.url, event, secrets=[endpoint.secret], at=at)
    if outcome.status_code is None:
        message = f"{endpoint.url} gave no answer: {outcome.error}"
        raise InvalidRequest(message, code=ErrorCode.WEBHOOK_NOT_ANSWERED, param="url", hint="See that it runs.")
    return outcome


async def redeliver(session: AsyncSession, endpoint_id: str, delivery_id: str, *, project: str) -> WebhookDelivery:
    """Send an event again, with all its tries before it and under its old id.

    Raises:
        NotFound: no such endpoint here, or no such delivery to it.
        InvalidRequest: the endpoint is disabled.
    """
    endpoint = await store.find(session, endpoint_id, project=project, lock=True)
    if endpoint.disabled_reason is not None:
        message = f"{endpoint.id} is disabled: {endpoint.disabled_reason}"
        hint = 'Enable it first: POST {"tunesmith": {"enabled": true}} to it.'
        raise InvalidRequest(message, code=ErrorCode.WEBHOOK_DISABLED, param="webhook_endpoint_id", hint=hint)
    delivery = await store.find_delivery(session, delivery_id, endpoint_id=endpoint_id)
    delivery.status = "waiting"
    delivery.tries = 0
    delivery.not_before = await now(session)
    await session.flush()
    return delivery


async def _apply(session: AsyncSession, endpoint: WebhookEndpoint, changes: Json) -> None:
    changed = {name: value for name, value in changes.items() if getattr(endpoint, name) != value}
    for name, value in changed.items():
        setattr(endpoint, name, value)
    if changed:
        endpoint.updated_at = await now(session)
    await session.flush()


def _words(event_types: Sequence[WebhookEventType]) -> list[str]:
    """Each once, as plain words."""
    return list(dict.fromkeys(kind.value for kind in event_types))
