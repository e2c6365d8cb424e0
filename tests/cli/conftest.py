"""The whole service as `tunesmith up` runs it, and the command as a user runs it."""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command import Run, in_process
from tests.control_plane import control_plane, limited, live_control_plane, plane
from tests.stack.installation import MODEL
from tests.stack.stand_in_engine import in_place_of_vllm
from tests.stack.up import short_folder
from tests.tiny_model import build_tiny_model
from tunesmith.cli.connection import Connection
from tunesmith.local.up.stack import running_stack

__all__ = ["control_plane", "limited", "live_control_plane", "plane"]
TUNESMITH = Path(sys.executable).parent / "tunesmith"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    """What a shell has in which `tunesmith up` ran."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "GITHUB_"))}
    return {
        **kept,
        "PATH": f"{TUNESMITH.parent}:{in_place_of_vllm(home / 'programs')}:{os.environ['PATH']}",
        "TUNESMITH_DATA_DIR": str(home / "data"),
        "TUNESMITH_CACHE_DIR": str(home / "cache"),
        "OMP_NUM_THREADS": "2",
    }


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real weights."""
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def service(home: Path, environment: dict[str, str], tiny_model: Path, run: Run) -> Iterator[Connection]:
    """One running installation with one worker and the tiny model, for the tests of a module."""
    with running_stack(home / "data", environment=environment) as connection:
        assert run("models", "add", MODEL, "--path", tiny_model).returncode == 0
        yield connection


@pytest.fixture(scope="module")
def run(environment: dict[str, str]) -> Run:
    """Run the command in this process and return what it said; `env` adds variables."""
    return in_process(environment)


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes a training file that no other test has."""

    def write(count: int, *, name: str = "rows.jsonl") -> Path:
        return write_rows(tmp_path / name, count)

    return write


def write_rows(path: Path, count: int) -> Path:
    """Sums that no other file has."""
    salt = uuid.uuid4().hex[:6]
    path.write_text("".join(json.dumps(_row(number, salt)) + "\n" for number in range(count)))
    return path


def _row(number: int, salt: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"What is {number} plus one? {salt}"},
            {"role": "assistant", "content": f"It is {number + 1}."},
        ]
    }
