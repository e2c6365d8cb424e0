"""The rows of aliases and schedules. `tables` names them with all the others."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from tunesmith.service.database.row import Row, one_of
from tunesmith.tuning.values.json_objects import Json
from tunesmith.tuning.words import UNDECIDED, UNDER_WAY, FiringState


class Alias(Row):
    """A name of a project that stands for one of its models, or for none any more. The database keeps that model."""

    __tablename__ = "aliases"

    project: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str | None] = mapped_column(ForeignKey("models.name"), index=True)
    changes: Mapped[int] = mapped_column(server_default=text("0"))
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AliasChange(Row):
    """One change of an alias: from what to what, by whom and why. The models may be gone by now."""

    __tablename__ = "alias_changes"
    __table_args__ = (CheckConstraint(one_of("action", ["set", "roll_back", "delete"]), name="action"),)

    project: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    action: Mapped[str]
    model: Mapped[str | None]
    previous_model: Mapped[str | None]
    reason: Mapped[str | None]
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    firing_id: Mapped[str | None]  # of the schedule that did it
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Schedule(Row):
    """A job that is made again and again. `next_due_at` is the first due time that has no firing yet.

    Jobs are made in the name of the key that created the schedule or changed it last.
    """

    __tablename__ = "schedules"
    __table_args__ = (
        Index("ix_schedules_name", "project", "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        Index(
            "ix_schedules_due",
            "next_fires_at",
            postgresql_where=text("paused_at IS NULL AND deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    name: Mapped[str]
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    settings: Mapped[Json]
    next_due_at: Mapped[datetime | None]
    next_fires_at: Mapped[datetime | None]  # the same with the schedule's jitter
    paused_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_at: Mapped[datetime | None]


class Firing(Row):
    """One due time of a schedule, or one "run now", and what was decided about it."""

    __tablename__ = "firings"
    __table_args__ = (
        CheckConstraint(one_of("state", [state.value for state in FiringState]), name="state"),
        CheckConstraint(one_of("trigger", ["cron", "manual"]), name="trigger"),
        UniqueConstraint("schedule_id", "due_at"),
        Index("ix_firings_idempotency_key", "schedule_id", "idempotency_key", unique=True),
        Index("ix_firings_job_id", "job_id", unique=True),
        Index("ix_firings_model", "model"),
        Index(
            "ix_firings_undecided",
            "not_before",
            postgresql_where=text(one_of("state", [state.value for state in UNDECIDED])),
        ),
        Index(
            "ix_firings_under_way",
            "state",
            postgresql_where=text(one_of("state", [state.value for state in UNDER_WAY])),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    schedule_id: Mapped[str] = mapped_column(ForeignKey("schedules.id"))
    due_at: Mapped[datetime]
    trigger: Mapped[str]
    is_forced: Mapped[bool] = mapped_column(server_default=text("false"))  # even if nothing has changed
    idempotency_key: Mapped[str | None]
    state: Mapped[str]
    code: Mapped[str | None]
    reason: Mapped[str | None]
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime]  # nobody looks at it before
    training_file: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    source: Mapped[Json | None]  # where the data came from
    data_sha256: Mapped[str | None]
    base_model: Mapped[str | None]
    base_digest: Mapped[str | None]
    settings_sha256: Mapped[str | None]
    champion: Mapped[str | None]  # what the alias stood for when the job was made
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    model: Mapped[str | None]  # what the job made
    evaluations: Mapped[Json | None]  # of its gate, by guard rail; the one that decides has the empty name
    verdict: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    decided_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
