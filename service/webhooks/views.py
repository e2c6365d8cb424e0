"""Endpoints and deliveries as the API shows them."""

from datetime import datetime

from tunesmith.service.database.webhook_tables import WebhookDelivery, WebhookEndpoint
from tunesmith.service.webhooks.sending import SECRET_PREFIX
from tunesmith.tuning.api.webhooks.deliveries import DeliveryObject, WebhookEventBody
from tunesmith.tuning.api.webhooks.endpoints import EndpointObject, EndpointWithSecret, TunesmithEndpoint


def endpoint_object(endpoint: WebhookEndpoint) -> EndpointObject:
    """The API's endpoint, without its secret."""
    return EndpointObject(
        id=endpoint.id,
        created_at=_seconds(endpoint.created_at),
        updated_at=_seconds(endpoint.updated_at),
        name=endpoint.name,
        url=endpoint.url,
        event_types=endpoint.event_types,
        signing_secret_hint=f"{SECRET_PREFIX}...{endpoint.secret[-4:]}",
        tunesmith=TunesmithEndpoint(
            enabled=endpoint.disabled_reason is None,
            disabled_reason=endpoint.disabled_reason,
            failing_since=_seconds(endpoint.failing_since) if endpoint.failing_since else None,
        ),
    )


def endpoint_with_secret(endpoint: WebhookEndpoint) -> EndpointWithSecret:
    """The same with its secret, for the one answer that has it."""
    return EndpointWithSecret(**dict(endpoint_object(endpoint)), signing_secret=endpoint.secret)


def delivery_object(delivery: WebhookDelivery) -> DeliveryObject:
    """What became of an event."""
    return DeliveryObject(
        id=delivery.id,
        created_at=_seconds(delivery.created_at),
        status=delivery.status,
        event=WebhookEventBody.model_validate(delivery.event),
        next_try_at=_seconds(delivery.not_before) if delivery.status == "waiting" else None,
        tries=delivery.log,
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
