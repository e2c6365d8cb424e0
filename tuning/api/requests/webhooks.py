"""The bodies of requests about webhook endpoints."""

from typing import Annotated

from pydantic import ConfigDict, Field

from tunesmith.tuning.values.base import Value
from tunesmith.tuning.words import WebhookEventType

LONGEST_URL = 2048

Name = Annotated[str, Field(min_length=1, max_length=128)]
Url = Annotated[str, Field(min_length=1, max_length=LONGEST_URL)]
EventTypes = Annotated[list[WebhookEventType], Field(min_length=1, max_length=len(WebhookEventType))]


class EndpointCreate(Value):
    """`POST /v1/webhook_endpoints`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "deploy",
                    "url": "https://ci.example.com/hooks/tunesmith",
                    "event_types": ["fine_tuning.job.succeeded"],
                }
            ]
        }
    )

    name: Name
    """A name for people."""
    url: Url
    """Where events are sent: http or https, to a public address."""
    event_types: EventTypes
    """Which events."""


class EndpointOptions(Value):
    """What is ours to change about an endpoint."""

    enabled: bool | None = None
    """Whether events are sent to it."""


class EndpointUpdate(Value):
    """`POST /v1/webhook_endpoints/{id}`: what is absent stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tunesmith": {"enabled": True}}]})

    name: Name | None = None
    """A name for people."""
    url: Url | None = None
    """Where events are sent."""
    event_types: EventTypes | None = None
    """Which events."""
    tunesmith: EndpointOptions = EndpointOptions()
    """Everything that is ours."""


class SecretRotation(Value):
    """`POST /v1/webhook_endpoints/{id}/rotate_secret`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"keep_old_secret_active_for_24_hours": True}]})

    keep_old_secret_active_for_24_hours: bool = False
    """Whether deliveries of the next day are signed with the old secret too."""


class EndpointTest(Value):
    """`POST /v1/webhook_endpoints/{id}/test`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"event_type": "fine_tuning.job.succeeded"}]})

    event_type: WebhookEventType
    """The kind of event that is made up and sent."""
