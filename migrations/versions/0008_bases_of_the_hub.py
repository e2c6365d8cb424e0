"""Base models remember the repository and commit they come from."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("hub", JSONB(none_as_null=True)))


def downgrade() -> None:
    op.drop_column("models", "hub")
