"""For migrations: changes of the schema that let services of the version before go on meanwhile."""

from typing import Any

from alembic import op


def create_index(name: str, table: str, columns: list[str], **options: Any) -> None:
    """Make an index while its table is written to. It must be all that its migration does: it is no transaction.

    What an earlier try left, which may be half an index, is dropped first.
    """
    with op.get_context().autocommit_block():
        limit = op.get_bind().exec_driver_sql("SHOW lock_timeout").scalar_one()
        op.execute("SET lock_timeout = 0")  # it holds nobody up while it waits for transactions to end
        op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
        op.execute(f"SET lock_timeout = '{limit}'")
