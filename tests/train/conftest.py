"""What all tests of the trainer share."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The trainer takes one thread for each core unless told otherwise, and the number may change the order of a sum.

    Runs in this process and in started ones are compared to the last bit; and several test processes share few cores.
    Of a module, not a package: folders without `__init__.py` make a package fixture last for the whole session, and
    the engine's tests between two of these then left their own number behind (other bytes, 2026-11-29).
    """
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(before[0])
    if before[1] is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before[1]
