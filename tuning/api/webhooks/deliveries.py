"""What was sent to an endpoint and what it answered."""

from typing import Annotated, Literal

from tunesmith.tuning.api.base import Answer, Recorded
from tunesmith.tuning.api.lists import Named, Page
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.json_objects import Json


class DeliveryTry(Value):
    """One try to deliver."""

    at: int
    """When it ended, in Unix seconds."""
    status_code: int | None
    """The HTTP status of the answer; null where none came."""
    error: str | None
    """Why it was no success; null where it was one."""
    answer: str | None
    """The beginning of the answer's body; null where none came."""
    seconds: float
    """How long it took."""


class WebhookEventData(Answer):
    """What happened to what."""

    id: str
    """The object, such as a job."""


class WebhookEventBody(Answer):
    """An event as it is sent."""

    id: str
    """Its identifier, `evt-...`, which is also the header `webhook-id`: the same however often it is sent."""
    object: Literal["event"] = "event"
    """Always `event`."""
    created_at: int
    """When it happened, in Unix seconds."""
    type: str
    """What happened."""
    data: WebhookEventData
    """To what; some types may say more."""


class DeliveryObject(Named):
    """An event on its way to an endpoint."""

    id: str
    """Its identifier, `delivery-...`."""
    object: Literal["tunesmith.webhook_delivery"] = "tunesmith.webhook_delivery"
    """Always `tunesmith.webhook_delivery`."""
    created_at: int
    """When the event was passed on to this endpoint, in Unix seconds."""
    status: Literal["waiting", "delivered", "failed"]
    """`waiting` for its first or next try; `failed` when it is not tried again by itself."""
    event: WebhookEventBody
    """What is sent."""
    next_try_at: int | None
    """When it is tried next, in Unix seconds; null when it is not."""
    tries: list[Annotated[Json, Recorded(DeliveryTry)]]
    """The newest tries, oldest first."""


class DeliveryPage(Page[DeliveryObject]):
    """One page of what was sent to an endpoint, newest first."""
