"""One stage for all histories."""

from collections.abc import Callable, Iterator

import pytest

from tests.simulation.stage import Stage


@pytest.fixture(scope="module")
def stage(new_empty_database_url: Callable[[], str]) -> Iterator[Stage]:
    with Stage(new_empty_database_url()) as stage:
        yield stage
