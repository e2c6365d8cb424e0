"""A worker's id belongs to the key that registered it, and to those that rotations put in its place."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("lineage", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("key_lineage", sa.Text(), nullable=True))
    op.add_column("inference_workers", sa.Column("key_lineage", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("inference_workers", "key_lineage")
    op.drop_column("workers", "key_lineage")
    op.drop_column("api_keys", "lineage")
