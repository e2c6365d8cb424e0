"""An index of states, which monitoring counts: the jobs themselves are a hundred times as large."""

from alembic import op

from tunesmith.service.database import online

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index("ix_jobs_state", "jobs", ["state"])


def downgrade() -> None:
    op.drop_index("ix_jobs_state", table_name="jobs")
