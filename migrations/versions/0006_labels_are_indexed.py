"""An index for jobs by their labels, the API's `metadata`."""

from alembic import op

from tunesmith.service.database import online

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index(
        "ix_jobs_labels", "jobs", ["labels"], postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_labels", table_name="jobs")
