"""Fixtures of what happens every night."""

import pytest

from tests.control_plane import ControlPlane
from tests.service.nightly.nights import Nights


@pytest.fixture
def nights(control_plane: ControlPlane) -> Nights:
    return Nights(control_plane)
