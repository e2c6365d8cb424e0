"""An index for unfinished jobs by their deadline."""

import sqlalchemy as sa
from alembic import op

from tunesmith.service.database import online

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index("ix_jobs_deadline", "jobs", ["deadline_at"], postgresql_where=sa.text("finished_at IS NULL"))


def downgrade() -> None:
    op.drop_index("ix_jobs_deadline", table_name="jobs")
