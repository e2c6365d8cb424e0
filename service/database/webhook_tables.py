"""The rows of webhooks: where to send events, and what was sent."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.service.database.row import Row, one_of
from tunesmith.tuning.values.json_objects import Json


class WebhookEndpoint(Row):
    """An address that a project's events are sent to. Only one keeper at a time sends to it, until `busy_until`.

    `failing_since` is the first failure that no success has followed. With a `disabled_reason` nothing is sent.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_project_id", "project", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]]
    secret: Mapped[str]  # what signs cannot be kept as a hash
    previous_secret: Mapped[str | None]
    previous_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disabled_reason: Mapped[str | None]
    failing_since: Mapped[datetime | None]
    busy_until: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookDelivery(Row):
    """One event on its way to one endpoint, with the log of its tries."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint(one_of("status", ["waiting", "delivered", "failed"]), name="status"),
        UniqueConstraint("endpoint_id", "event_id"),
        Index("ix_webhook_deliveries_due", "endpoint_id", "not_before", postgresql_where=text("status = 'waiting'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event_id: Mapped[str]
    event: Mapped[Json]
    status: Mapped[str] = mapped_column(server_default=text("'waiting'"))
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    log: Mapped[list[Json]] = mapped_column(server_default=text("'[]'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
