"""Jobs that measure models and train nothing, their rows, and what the gate said."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_MODEL_IFF_SUCCEEDED = "ck_jobs_model_iff_succeeded"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("kind", sa.Text(), server_default=sa.text("'training'"), nullable=False))
    op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", "kind IN ('training', 'evaluation')")
    op.drop_constraint(_MODEL_IFF_SUCCEEDED, "jobs")
    op.create_check_constraint(
        op.f(_MODEL_IFF_SUCCEEDED),
        "jobs",
        "(fine_tuned_model IS NOT NULL) = (state = 'succeeded' AND kind = 'training')",
    )
    op.create_table(
        "evaluated_rows",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("data", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_evaluated_rows_job_id")),
        sa.PrimaryKeyConstraint("job_id", "line", name=op.f("pk_evaluated_rows")),
        sa.UniqueConstraint("job_id", "place", name=op.f("uq_evaluated_rows_job_id_place")),
    )
    op.create_table(
        "gate_verdicts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("champion", sa.Text(), nullable=True),
        sa.Column("word", sa.Text(), nullable=False),
        sa.Column("verdict", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["candidate"], ["jobs.id"], name=op.f("fk_gate_verdicts_candidate")),
        sa.ForeignKeyConstraint(["champion"], ["jobs.id"], name=op.f("fk_gate_verdicts_champion")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_verdicts")),
    )
    op.create_index("ix_gate_verdicts_project_id", "gate_verdicts", ["project", "id"])


def downgrade() -> None:
    op.drop_table("gate_verdicts")
    op.drop_table("evaluated_rows")
    op.execute("DELETE FROM events WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'evaluation')")
    op.execute("DELETE FROM metric_chunks WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'evaluation')")
    op.execute("DELETE FROM artifacts WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'evaluation')")
    op.execute("DELETE FROM attempts WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'evaluation')")
    op.execute("DELETE FROM jobs WHERE kind = 'evaluation'")
    op.drop_constraint(_MODEL_IFF_SUCCEEDED, "jobs")
    op.create_check_constraint(
        op.f(_MODEL_IFF_SUCCEEDED), "jobs", "(fine_tuned_model IS NOT NULL) = (state = 'succeeded')"
    )
    op.drop_constraint("ck_jobs_kind", "jobs")
    op.drop_column("jobs", "kind")
