"""An index for the few events that say where a tracker shows a run."""

import sqlalchemy as sa
from alembic import op

from tunesmith.service.database import online

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.create_index("ix_events_tracker", "events", ["job_id", "seq"], postgresql_where=sa.text("data ? 'tracker'"))


def downgrade() -> None:
    op.drop_index("ix_events_tracker", table_name="events")
