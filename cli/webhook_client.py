"""The calls about webhook endpoints."""

from collections.abc import Sequence
from urllib.parse import quote

from tunesmith.cli.client import Client
from tunesmith.tuning.api.webhooks.deliveries import DeliveryObject, DeliveryPage
from tunesmith.tuning.api.webhooks.endpoints import (
    DeletedEndpoint,
    EndpointObject,
    EndpointPage,
    EndpointTestResult,
    EndpointWithSecret,
)

_PATH = "/webhook_endpoints"


class WebhookClient(Client):
    """Calls of one service, with those about webhooks."""

    def create_endpoint(self, *, name: str, url: str, event_types: Sequence[str]) -> EndpointWithSecret:
        """Have events sent to a URL; the answer has the secret, and no other has."""
        body = {"name": name, "url": url, "event_types": list(event_types)}
        return self.ask(EndpointWithSecret, "POST", _PATH, json=body)

    def list_endpoints(self) -> list[EndpointObject]:
        """Newest first."""
        return self.ask(EndpointPage, "GET", _PATH, params={"limit": 100}).data

    def endpoint(self, endpoint_id: str) -> EndpointObject:
        """One of them."""
        return self.ask(EndpointObject, "GET", _path(endpoint_id))

    def set_enabled(self, endpoint_id: str, *, enabled: bool) -> EndpointObject:
        """Send to it, or send nothing."""
        body = {"tunesmith": {"enabled": enabled}}
        return self.ask(EndpointObject, "POST", _path(endpoint_id), json=body, is_repeatable=True)

    def rotate_secret(self, endpoint_id: str, *, keep_old: bool) -> EndpointWithSecret:
        """A new secret; the old one may sign beside it for a day."""
        body = {"keep_old_secret_active_for_24_hours": keep_old}
        return self.ask(EndpointWithSecret, "POST", f"{_path(endpoint_id)}/rotate_secret", json=body)

    def test_endpoint(self, endpoint_id: str, event_type: str) -> EndpointTestResult:
        """Send a made-up event now."""
        return self.ask(EndpointTestResult, "POST", f"{_path(endpoint_id)}/test", json={"event_type": event_type})

    def delete_endpoint(self, endpoint_id: str) -> DeletedEndpoint:
        """Forget it, and what waits for it."""
        return self.ask(DeletedEndpoint, "DELETE", _path(endpoint_id))

    def deliveries(self, endpoint_id: str, *, limit: int) -> list[DeliveryObject]:
        """What was sent to it, newest first."""
        return self.ask(DeliveryPage, "GET", f"{_path(endpoint_id)}/deliveries", params={"limit": limit}).data

    def redeliver(self, endpoint_id: str, delivery_id: str) -> DeliveryObject:
        """Send an event again."""
        path = f"{_path(endpoint_id)}/deliveries/{quote(delivery_id, safe='')}/redeliver"
        return self.ask(DeliveryObject, "POST", path, is_repeatable=True)


def _path(endpoint_id: str) -> str:
    return f"{_PATH}/{quote(endpoint_id, safe='')}"
