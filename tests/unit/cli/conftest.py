"""The command where no service runs."""

import os
from pathlib import Path

import pytest

from tests.command import Run, in_process


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run the command in this process, with folders of its own."""
    folders = {"TUNESMITH_DATA_DIR": str(tmp_path / "data"), "TUNESMITH_CACHE_DIR": str(tmp_path / "cache")}
    return in_process({"PATH": os.environ["PATH"], **folders})
