"""The rows of whoever runs the service: projects with limits, invitations, permissions, what was done, wake-ups."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.service.database.row import Row
from tunesmith.tuning.values.json_objects import Json


class Project(Row):
    """A project that somebody gave limits of its own. What is null here is as the service's settings have it."""

    __tablename__ = "projects"
    __table_args__ = (
        CheckConstraint(
            "running_jobs >= 0 AND queued_jobs >= 0 AND stored_bytes >= 0 AND gpu_hours_per_month >= 0", name="limits"
        ),
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    running_jobs: Mapped[int | None]
    queued_jobs: Mapped[int | None]
    stored_bytes: Mapped[int | None]
    gpu_hours_per_month: Mapped[float | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Invitation(Row):
    """A token with which one worker may join, once. Then `key_id` is the key that it has from there on."""

    __tablename__ = "invitations"
    __table_args__ = (CheckConstraint("(used_at IS NULL) = (key_id IS NULL)", name="used_by_a_key"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    token_sha256: Mapped[str] = mapped_column(unique=True)
    project: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))


class CheckpointPermission(Row):
    """That a project may ask a checkpoint of another one. Its files stay in the store for as long."""

    __tablename__ = "checkpoint_permissions"
    __table_args__ = (UniqueConstraint("checkpoint_id", "project"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id"))
    project: Mapped[str] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AuditEntry(Row):
    """Who did what when. Nothing that opens a door stands here, and nothing changes or deletes a row."""

    __tablename__ = "audit_entries"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    key_id: Mapped[str | None]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    details: Mapped[Json]


class WakeCount(Row):
    """How many wake-ups there were for a worker class: whoever waits over HTTP sees it grow."""

    __tablename__ = "wake_counts"

    worker_class: Mapped[str] = mapped_column(primary_key=True)
    wakes: Mapped[int] = mapped_column(server_default=text("0"))
