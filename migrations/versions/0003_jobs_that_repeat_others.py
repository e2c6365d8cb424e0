"""Jobs that repeat another one with its plan as it stood."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("reproduces", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("pinned_plan", postgresql.JSONB(none_as_null=True), nullable=True))
    op.create_foreign_key(op.f("fk_jobs_reproduces"), "jobs", "jobs", ["reproduces"], ["id"])
    op.create_check_constraint(
        op.f("ck_jobs_pinned_iff_reproduces"), "jobs", "(reproduces IS NULL) = (pinned_plan IS NULL)"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_jobs_pinned_iff_reproduces"), "jobs")
    op.drop_constraint(op.f("fk_jobs_reproduces"), "jobs")
    op.drop_column("jobs", "pinned_plan")
    op.drop_column("jobs", "reproduces")
