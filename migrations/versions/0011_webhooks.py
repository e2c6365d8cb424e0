"""Webhook endpoints, what is sent to them, and events of jobs that have ended, recorded with the change itself."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)

# The database records the event itself, in the statement that ends the job: nobody who changes a state can forget it.
_EVENTS = """
CREATE FUNCTION jobs_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO outbox (topic, payload) VALUES ('event', jsonb_build_object(
    'project', NEW.project,
    'event', jsonb_build_object(
      'id', 'evt-' || replace(gen_random_uuid()::text, '-', ''),
      'object', 'event',
      'created_at', floor(extract(epoch FROM NEW.finished_at))::bigint,
      'type', 'fine_tuning.job.' || NEW.state,
      'data', jsonb_build_object('id', NEW.id))));
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_event AFTER UPDATE OF state ON jobs FOR EACH ROW
WHEN (NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL) EXECUTE FUNCTION jobs_event();
"""


def upgrade() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("event_types", JSONB(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_secret_until", _MOMENT, nullable=True),
        sa.Column("created_at", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("updated_at", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("failing_since", _MOMENT, nullable=True),
        sa.Column("busy_until", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index("ix_webhook_endpoints_project_id", "webhook_endpoints", ["project", "id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event", JSONB(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'waiting'"), nullable=False),
        sa.Column("tries", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("log", JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("status IN ('waiting', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_deliveries_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint("endpoint_id", "event_id", name=op.f("uq_webhook_deliveries_endpoint_id_event_id")),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["endpoint_id", "not_before"],
        postgresql_where=sa.text("status = 'waiting'"),
    )
    op.execute(_EVENTS)


def downgrade() -> None:
    op.execute("DROP TRIGGER jobs_event ON jobs")
    op.execute("DROP FUNCTION jobs_event")
    op.execute("DELETE FROM outbox WHERE topic = 'event'")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhook_endpoints")
