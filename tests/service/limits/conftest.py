"""Settings of applications that share the live one's database."""

from pathlib import Path

import pytest

from tests.control_plane import ControlPlane
from tunesmith.service.settings import Settings


@pytest.fixture
def settings(plane: ControlPlane, tmp_path: Path) -> Settings:
    """Of an application of the test's own, over the same database."""
    return plane.settings.model_copy(update={"store": f"file://{tmp_path}/store"})
