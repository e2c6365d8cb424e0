"""Beats of API processes, lost and preempted attempts beside failed ones, claims that may be repeated, quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_beats",
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("steady_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("process", name=op.f("pk_api_beats")),
    )
    for column in ("attempts_lost", "attempts_preempted"):
        op.add_column("jobs", sa.Column(column, sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_check_constraint(op.f("ck_jobs_endings"), "jobs", "attempts_lost >= 0 AND attempts_preempted >= 0")
    op.add_column("attempts", sa.Column("claim_id", sa.Text(), nullable=True))
    op.create_index("ix_attempts_claim", "attempts", ["worker_id", "claim_id"], unique=True)
    op.add_column("workers", sa.Column("quarantined_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("workers", sa.Column("quarantine_reason", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("trusted_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for column in ("quarantined_until", "quarantine_reason", "trusted_since"):
        op.drop_column("workers", column)
    op.drop_index("ix_attempts_claim", "attempts")
    op.drop_column("attempts", "claim_id")
    op.drop_constraint(op.f("ck_jobs_endings"), "jobs")
    for column in ("attempts_lost", "attempts_preempted"):
        op.drop_column("jobs", column)
    op.drop_table("api_beats")
