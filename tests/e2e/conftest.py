"""One installation for the end-to-end tests of a module; each test has workers of its own."""

from collections.abc import Callable, Iterator

import pytest

from tests.stack.services import Services
from tests.stack.worker import Worker


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, new_database_url: Callable[[], str], redis_url: str
) -> Iterator[Services]:
    installation = Services(tmp_path_factory.mktemp("stack"), database_url=new_database_url(), redis_url=redis_url)
    try:
        installation.start()
        installation.register_model()
        yield installation
    finally:
        installation.stop()


@pytest.fixture
def worker(stack: Services) -> Iterator[Worker]:
    """The only worker of the installation."""
    yield from _started(stack, slots=1)


@pytest.fixture
def worker_of_two_slots(stack: Services) -> Iterator[Worker]:
    """The only worker of the installation, which trains two jobs at once."""
    yield from _started(stack, slots=2)


def _started(stack: Services, *, slots: int) -> Iterator[Worker]:
    started = stack.start_worker(TUNESMITH_SLOTS=str(slots))
    yield started
    stack.cancel_everything()
    started.kill()
