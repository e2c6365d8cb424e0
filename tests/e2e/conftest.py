"""One installation for all end-to-end tests of a module."""

from collections.abc import Iterator

import pytest

from cli.embedded.postgres import PostgresServer
from tests.e2e.stack import Stack


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, _migrated: str, redis_url: str
) -> Iterator[Stack]:
    from tests.conftest import _database

    for database_url in _database(postgres_server, template=_migrated):
        installation = Stack(tmp_path_factory.mktemp("stack"), database_url=database_url, redis_url=redis_url)
        try:
            installation.start()
            installation.register_model()
            yield installation
        finally:
            installation.stop()
