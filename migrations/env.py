"""Run migrations on the connection that `service.database.migrate` opened and locked."""

from alembic import context

import tunesmith.service.database.access_tables  # noqa: F401 - tables that the metadata knows once this is imported
from tunesmith.service.database.tables import Row

context.configure(connection=context.config.attributes["connection"], target_metadata=Row.metadata)
with context.begin_transaction():
    context.run_migrations()
