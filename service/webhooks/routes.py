"""`/v1/webhook_endpoints`: the API's routes, and the log of deliveries beside them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request

from tunesmith.service.web.auth import MemberKey
from tunesmith.service.web.bodies import documented, json_body
from tunesmith.service.web.dependencies import DatabaseDep, DbSession
from tunesmith.service.web.openapi import error_response
from tunesmith.service.web.parameters import AT_MOST, After
from tunesmith.service.webhooks import endpoints, store
from tunesmith.service.webhooks.sending import Sender
from tunesmith.service.webhooks.views import delivery_object, endpoint_object, endpoint_with_secret
from tunesmith.tuning.api.requests.webhooks import EndpointCreate, EndpointTest, EndpointUpdate, SecretRotation
from tunesmith.tuning.api.webhooks.deliveries import DeliveryObject, DeliveryPage
from tunesmith.tuning.api.webhooks.endpoints import (
    DeletedEndpoint,
    EndpointObject,
    EndpointPage,
    EndpointTestResult,
    EndpointWithSecret,
    EventTypeList,
)
from tunesmith.tuning.words import WebhookEventType

router = APIRouter(prefix="/v1", tags=["webhooks"])

EndpointId = Annotated[str, Path(description="The endpoint's id, `webhook-...`.")]
DeliveryId = Annotated[str, Path(description="The delivery's id, `delivery-...`.")]
Limit = Annotated[int, Query(ge=1, le=100, description=AT_MOST)]


async def _sender(request: Request) -> Sender:
    return request.app.state.webhook_sender  # type: ignore[no-any-return]


SenderDep = Annotated[Sender, Depends(_sender)]


@router.get("/webhook_event_types")
async def list_event_types(caller: MemberKey) -> EventTypeList:  # noqa: ARG001 - it takes a key
    """The events that there are."""
    return EventTypeList(data=[kind.value for kind in WebhookEventType])


@router.post(
    "/webhook_endpoints",
    openapi_extra=documented(EndpointCreate),
    responses=error_response(429, "The project has as many endpoints as it may."),
)
async def create_endpoint(
    caller: MemberKey,
    *,
    request: Annotated[EndpointCreate, json_body(EndpointCreate)],
    database: DatabaseDep,
    sender: SenderDep,
) -> EndpointWithSecret:
    """Have events sent to a URL. The answer has the secret that they are signed with; no other answer does."""
    return endpoint_with_secret(await endpoints.create(database, request, project=caller.project, guard=sender.guard))


@router.get("/webhook_endpoints")
async def list_endpoints(
    caller: MemberKey, *, session: DbSession, after: After = None, limit: Limit = 20
) -> EndpointPage:
    """The project's endpoints, newest first."""
    found = await store.find_many(session, project=caller.project, after=after, limit=limit + 1)
    return EndpointPage.of([endpoint_object(endpoint) for endpoint in found], limit=limit)


@router.get("/webhook_endpoints/{webhook_endpoint_id}")
async def retrieve_endpoint(webhook_endpoint_id: EndpointId, caller: MemberKey, session: DbSession) -> EndpointObject:
    """One endpoint, with why it is disabled if it is."""
    return endpoint_object(await store.find(session, webhook_endpoint_id, project=caller.project))


@router.post("/webhook_endpoints/{webhook_endpoint_id}", openapi_extra=documented(EndpointUpdate))
async def update_endpoint(
    webhook_endpoint_id: EndpointId,
    caller: MemberKey,
    *,
    request: Annotated[EndpointUpdate, json_body(EndpointUpdate)],
    database: DatabaseDep,
    sender: SenderDep,
) -> EndpointObject:
    """Change the endpoint, or enable and disable it with `tunesmith.enabled`. What is absent stays as it is."""
    project = caller.project
    return endpoint_object(
        await endpoints.change(database, webhook_endpoint_id, request, project=project, guard=sender.guard)
    )


@router.delete("/webhook_endpoints/{webhook_endpoint_id}")
async def delete_endpoint(webhook_endpoint_id: EndpointId, caller: MemberKey, session: DbSession) -> DeletedEndpoint:
    """Forget the endpoint, its log, and what waits for it."""
    endpoint = await store.find(session, webhook_endpoint_id, project=caller.project, lock=True)
    await session.delete(endpoint)
    return DeletedEndpoint(id=endpoint.id)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/rotate_secret", openapi_extra=documented(SecretRotation))
async def rotate_endpoint_secret(
    webhook_endpoint_id: EndpointId,
    caller: MemberKey,
    *,
    request: Annotated[SecretRotation, json_body(SecretRotation)],
    session: DbSession,
) -> EndpointWithSecret:
    """Give the endpoint a new secret. The old one may go on signing beside it for a day."""
    keep_old = request.keep_old_secret_active_for_24_hours
    return endpoint_with_secret(
        await endpoints.rotate_secret(session, webhook_endpoint_id, project=caller.project, keep_old=keep_old)
    )


@router.post("/webhook_endpoints/{webhook_endpoint_id}/test", openapi_extra=documented(EndpointTest))
async def test_endpoint(
    webhook_endpoint_id: EndpointId,
    caller: MemberKey,
    *,
    request: Annotated[EndpointTest, json_body(EndpointTest)],
    database: DatabaseDep,
    sender: SenderDep,
) -> EndpointTestResult:
    """Send a made-up event and wait for the answer. It is not in the log, and not tried again."""
    kind = request.event_type.value
    outcome = await endpoints.try_out(database, webhook_endpoint_id, kind, project=caller.project, sender=sender)
    return EndpointTestResult(
        webhook_endpoint_id=webhook_endpoint_id, event_type=kind, status_code=outcome.status_code or 0
    )


@router.get("/webhook_endpoints/{webhook_endpoint_id}/deliveries")
async def list_deliveries(
    webhook_endpoint_id: EndpointId, caller: MemberKey, *, session: DbSession, after: After = None, limit: Limit = 20
) -> DeliveryPage:
    """What was sent to the endpoint in the last 30 days and what it answered, newest first."""
    endpoint = await store.find(session, webhook_endpoint_id, project=caller.project)
    found = await store.find_deliveries(session, endpoint.id, after=after, limit=limit + 1)
    return DeliveryPage.of([delivery_object(delivery) for delivery in found], limit=limit)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/deliveries/{delivery_id}/redeliver")
async def redeliver(
    webhook_endpoint_id: EndpointId, delivery_id: DeliveryId, caller: MemberKey, session: DbSession
) -> DeliveryObject:
    """Send an event again, as soon as a keeper comes by; it has its old id."""
    return delivery_object(await endpoints.redeliver(session, webhook_endpoint_id, delivery_id, project=caller.project))
