"""A job's place among those of its project, what the planner is asked about it, and until when bytes are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SETS = ("artifacts", "checkpoints", "models")

# The database keeps `line_at` itself: whoever changes a priority cannot forget it, nor can an older program.
_LINE = """
CREATE FUNCTION jobs_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.line_at := NEW.queued_at - NEW.priority * interval '30 minutes';
  RETURN NEW;
END $$;
CREATE TRIGGER jobs_line BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW WHEN (NEW.finished_at IS NULL)
EXECUTE FUNCTION jobs_line();
"""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("line_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("question_sha256", sa.Text(), nullable=True))
    # Finished jobs never change, and stand in no line.
    op.execute(
        "UPDATE jobs SET line_at = queued_at - priority * interval '30 minutes' "
        "WHERE state NOT IN ('succeeded', 'failed', 'cancelled')"
    )
    op.execute(_LINE)
    waiting = sa.text("state = 'queued'")
    op.drop_index("ix_jobs_waiting", "jobs")
    op.create_index("ix_jobs_line", "jobs", ["project", "line_at", "id"], postgresql_where=waiting)

    op.add_column("blobs", sa.Column("is_stored", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.add_column(
        "blobs",
        sa.Column(
            "kept_until",
            sa.DateTime(timezone=True),
            server_default=sa.text("now() + interval '1 day'"),
            nullable=False,
        ),
    )
    op.create_index("ix_blobs_kept_until", "blobs", ["kept_until"])
    op.alter_column("files", "blob_sha256", nullable=True)
    op.create_check_constraint(
        op.f("ck_files_living_has_bytes"),
        "files",
        "blob_sha256 IS NOT NULL OR deleted_at IS NOT NULL OR expires_at IS NOT NULL",
    )
    op.create_index("ix_files_blob_sha256", "files", ["blob_sha256"])
    for table in _SETS:
        op.create_index(
            f"ix_{table}_files", table, ["files"], postgresql_using="gin", postgresql_ops={"files": "jsonb_path_ops"}
        )


def downgrade() -> None:
    for table in _SETS:
        op.drop_index(f"ix_{table}_files", table)
    op.drop_index("ix_files_blob_sha256", "files")
    op.drop_constraint(op.f("ck_files_living_has_bytes"), "files")
    op.alter_column("files", "blob_sha256", nullable=False)
    op.drop_index("ix_blobs_kept_until", "blobs")
    op.drop_column("blobs", "kept_until")
    op.drop_column("blobs", "is_stored")
    op.drop_index("ix_jobs_line", "jobs")
    op.create_index("ix_jobs_waiting", "jobs", ["priority", "queued_at"], postgresql_where=sa.text("state = 'queued'"))
    op.execute("DROP TRIGGER jobs_line ON jobs")
    op.execute("DROP FUNCTION jobs_line")
    op.drop_column("jobs", "question_sha256")
    op.drop_column("jobs", "line_at")
