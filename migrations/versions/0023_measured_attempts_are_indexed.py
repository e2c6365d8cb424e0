"""An index for attempts that measured something, of which the newest correct the next prediction."""

import sqlalchemy as sa
from alembic import op

from tunesmith.service.database import online

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    measured = sa.text("(outcome = 'succeeded' AND result IS NOT NULL) OR canary IS NOT NULL")
    online.create_index("ix_attempts_measured", "attempts", ["id"], postgresql_where=measured)


def downgrade() -> None:
    op.drop_index("ix_attempts_measured", table_name="attempts")
