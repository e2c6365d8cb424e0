"""One installation for all end-to-end tests; each test has workers of its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, Worker
from tunesmith.local.embedded.postgres import PostgresServer


@pytest.fixture(scope="session")
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


@pytest.fixture
def worker(stack: Stack) -> Iterator[Worker]:
    """The only worker of the installation."""
    started = stack.start_worker()
    yield started
    stack.cancel_everything()
    started.kill()
