"""Keys that expire and that only read; limits of projects, invitations of workers, an audit log, counted wake-ups."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_APPEND_ONLY = """
CREATE FUNCTION audit_entries_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'what was done stays on record' USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER audit_entries_stay BEFORE UPDATE OR DELETE ON audit_entries FOR EACH ROW
EXECUTE FUNCTION audit_entries_stay();
"""


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_constraint(op.f("ck_api_keys_role"), "api_keys")
    op.create_check_constraint(op.f("ck_api_keys_role"), "api_keys", "role IN ('admin', 'member', 'reader', 'worker')")
    op.create_table(
        "projects",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("running_jobs", sa.BigInteger(), nullable=True),
        sa.Column("queued_jobs", sa.BigInteger(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("gpu_hours_per_month", sa.Float(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "running_jobs >= 0 AND queued_jobs >= 0 AND stored_bytes >= 0 AND gpu_hours_per_month >= 0",
            name=op.f("ck_projects_limits"),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_projects")),
    )
    op.create_table(
        "invitations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("token_sha256", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.CheckConstraint("(used_at IS NULL) = (key_id IS NULL)", name=op.f("ck_invitations_used_by_a_key")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_invitations_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_invitations_token_sha256")),
    )
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    op.execute(_APPEND_ONLY)
    op.create_table(
        "wake_counts",
        sa.Column("worker_class", sa.Text(), nullable=False),
        sa.Column("wakes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("worker_class", name=op.f("pk_wake_counts")),
    )
    op.create_index("ix_attempts_ended_at", "attempts", ["ended_at"])


def downgrade() -> None:
    op.drop_index("ix_attempts_ended_at", "attempts")
    op.drop_table("wake_counts")
    op.drop_table("audit_entries")
    op.execute("DROP FUNCTION audit_entries_stay")
    op.drop_table("invitations")
    op.drop_table("projects")
    op.execute("UPDATE api_keys SET role = 'member', revoked_at = coalesce(revoked_at, now()) WHERE role = 'reader'")
    op.drop_constraint(op.f("ck_api_keys_role"), "api_keys")
    op.create_check_constraint(op.f("ck_api_keys_role"), "api_keys", "role IN ('admin', 'member', 'worker')")
    op.drop_column("api_keys", "expires_at")
