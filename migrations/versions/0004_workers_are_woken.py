"""The time of a worker's last wake-up, by the word that the code uses for it."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("workers", "rung_at", new_column_name="woken_at")


def downgrade() -> None:
    op.alter_column("workers", "woken_at", new_column_name="rung_at")
