"""The endpoints that a project's events are sent to."""

from typing import Literal

from pydantic import Field

from tunesmith.tuning.api.base import Answer
from tunesmith.tuning.api.lists import Named, Page


class TunesmithEndpoint(Answer):
    """What Tunesmith adds to an endpoint."""

    enabled: bool
    """Whether events are sent to it."""
    disabled_reason: str | None
    """Why nothing is sent, by whose decision; null while it is enabled."""
    failing_since: int | None
    """The first failure that no success has followed, in Unix seconds; null while deliveries succeed."""


class EndpointObject(Named):
    """An address that events of a project are sent to."""

    id: str
    """Its identifier, `webhook-...`."""
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    """Always `webhook_endpoint`."""
    created_at: int
    """When it was made, in Unix seconds."""
    updated_at: int
    """When its configuration or secret changed last, in Unix seconds."""
    name: str
    """Its name for people."""
    url: str
    """Where events are sent."""
    event_types: list[str]
    """Which events."""
    signing_secret_hint: str
    """The end of its secret."""
    tunesmith: TunesmithEndpoint
    """Everything that is ours."""


class EndpointWithSecret(EndpointObject):
    """An endpoint with its secret, which is shown this once."""

    signing_secret: str = Field(repr=False)
    """What deliveries are signed with, `whsec_...`; no other answer has it."""


class EndpointPage(Page[EndpointObject]):
    """One page of a project's endpoints, newest first."""


class DeletedEndpoint(Answer):
    """An endpoint is gone, and what waited for it."""

    id: str
    """Its identifier."""
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    """Always `webhook_endpoint.deleted`."""
    deleted: Literal[True] = True
    """Always true."""


class EndpointTestResult(Answer):
    """What an endpoint answered to an event that was made up."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    """Always `webhook_endpoint.test`."""
    webhook_endpoint_id: str
    """The endpoint."""
    event_type: str
    """The kind of event."""
    status_code: int
    """The HTTP status of its answer."""
    success: Literal[True] = True
    """Always true: it answered. Whether that was a success says `status_code`."""


class EventTypeList(Answer):
    """The events that there are."""

    object: Literal["list"] = "list"
    """Always `list`."""
    data: list[str]
    """What `event_types` of an endpoint may name."""
