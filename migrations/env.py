"""Run migrations on the connection that `service.database.migrate` opened and locked."""

from alembic import context

import tunesmith.service.database.access_tables  # tables that the metadata knows once these are imported
import tunesmith.service.database.inference_tables
import tunesmith.service.database.webhook_tables  # noqa: F401
from tunesmith.service.database.tables import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    transaction_per_migration=True,  # no lock outlives its migration, and an index can be made outside of any
)
with context.begin_transaction():
    context.run_migrations()
