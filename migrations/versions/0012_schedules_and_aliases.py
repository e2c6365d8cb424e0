"""Names that stand for models, jobs that are made again and again, and labels of files to find their data by."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = True, default: str | None = None) -> sa.Column:
    default = sa.text(default) if default else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=nullable)


def _text(name: str, *, nullable: bool = True) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _json(name: str, *, nullable: bool = True) -> sa.Column:
    return sa.Column(name, postgresql.JSONB(none_as_null=True), nullable=nullable)


def _number(name: str, *, default: str | None = None) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), server_default=sa.text(default) if default else None, nullable=False)


def upgrade() -> None:
    op.add_column("files", _json("labels"))
    op.create_index("ix_files_filename", "files", ["project", "filename"])
    op.create_index(
        "ix_files_labels", "files", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}
    )
    op.create_table(
        "aliases",
        _text("project", nullable=False),
        _text("name", nullable=False),
        _text("model"),
        _number("changes", default="0"),
        _moment("updated_at", nullable=False, default="now()"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name=op.f("fk_aliases_model")),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_aliases")),
    )
    op.create_index("ix_aliases_model", "aliases", ["model"])
    op.create_table(
        "alias_changes",
        _text("project", nullable=False),
        _text("alias", nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        _text("action", nullable=False),
        _text("model"),
        _text("previous_model"),
        _text("reason"),
        _text("api_key_id", nullable=False),
        _text("firing_id"),
        _moment("created_at", nullable=False, default="now()"),
        sa.CheckConstraint("action IN ('set', 'roll_back', 'delete')", name=op.f("ck_alias_changes_action")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_alias_changes_api_key_id")),
        sa.PrimaryKeyConstraint("project", "alias", "number", name=op.f("pk_alias_changes")),
    )
    op.create_table(
        "schedules",
        _text("id", nullable=False),
        _text("project", nullable=False),
        _text("name", nullable=False),
        _text("api_key_id", nullable=False),
        _json("settings", nullable=False),
        _moment("next_due_at"),
        _moment("next_fires_at"),
        _moment("paused_at"),
        _moment("created_at", nullable=False, default="now()"),
        _moment("updated_at", nullable=False, default="now()"),
        _moment("deleted_at"),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_schedules_api_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    living = sa.text("deleted_at IS NULL")
    op.create_index("ix_schedules_name", "schedules", ["project", "name"], unique=True, postgresql_where=living)
    active = sa.text("paused_at IS NULL AND deleted_at IS NULL")
    op.create_index("ix_schedules_due", "schedules", ["next_fires_at"], postgresql_where=active)
    _create_firings()


def _create_firings() -> None:
    op.create_table(
        "firings",
        _text("id", nullable=False),
        _text("schedule_id", nullable=False),
        _moment("due_at", nullable=False),
        _text("trigger", nullable=False),
        sa.Column("is_forced", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        _text("idempotency_key"),
        _text("state", nullable=False),
        _text("code"),
        _text("reason"),
        _number("tries", default="0"),
        _moment("not_before", nullable=False),
        _text("training_file"),
        _json("source"),
        _text("data_sha256"),
        _text("base_model"),
        _text("base_digest"),
        _text("settings_sha256"),
        _text("champion"),
        _text("job_id"),
        _text("model"),
        _json("verdict"),
        _moment("created_at", nullable=False, default="now()"),
        _moment("decided_at"),
        _moment("ended_at"),
        sa.CheckConstraint(
            "state IN ('due', 'waiting', 'submitted', 'awaiting_verdict', 'trained', 'promoted', 'refused', "
            "'failed', 'cancelled', 'skipped', 'missed')",
            name=op.f("ck_firings_state"),
        ),
        sa.CheckConstraint("trigger IN ('cron', 'manual')", name=op.f("ck_firings_trigger")),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], name=op.f("fk_firings_schedule_id")),
        sa.ForeignKeyConstraint(["training_file"], ["files.id"], name=op.f("fk_firings_training_file")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_firings_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_firings")),
        sa.UniqueConstraint("schedule_id", "due_at", name=op.f("uq_firings_schedule_id_due_at")),
    )
    op.create_index("ix_firings_idempotency_key", "firings", ["schedule_id", "idempotency_key"], unique=True)
    op.create_index("ix_firings_job_id", "firings", ["job_id"], unique=True)
    op.create_index("ix_firings_model", "firings", ["model"])
    undecided = sa.text("state IN ('due', 'waiting')")
    op.create_index("ix_firings_undecided", "firings", ["not_before"], postgresql_where=undecided)
    under_way = sa.text("state IN ('submitted', 'awaiting_verdict')")
    op.create_index("ix_firings_under_way", "firings", ["state"], postgresql_where=under_way)


def downgrade() -> None:
    for table in ("firings", "schedules", "alias_changes", "aliases"):
        op.drop_table(table)
    op.drop_index("ix_files_labels", "files")
    op.drop_index("ix_files_filename", "files")
    op.drop_column("files", "labels")
