"""An index for evaluations, which are few among a project's jobs."""

import sqlalchemy as sa
from alembic import op

from tunesmith.service.database import online

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    few = sa.text("kind = 'evaluation'")
    online.create_index("ix_jobs_evaluations", "jobs", ["project", "id"], postgresql_where=few)


def downgrade() -> None:
    op.drop_index("ix_jobs_evaluations", table_name="jobs")
