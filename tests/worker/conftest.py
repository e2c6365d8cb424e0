"""A scripted service, and the attempt that talks to it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.worker.scripted_service import ScriptedService
from tunesmith.tuning.messages import FileRef
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.transport.control import HttpAttemptControl, _client


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    with ScriptedService() as scripted:
        yield scripted


@pytest.fixture
def control(service: ScriptedService) -> Iterator[HttpAttemptControl]:
    client = _client(service.url, "lease-token", timeout=5)
    made = HttpAttemptControl(client=client, blob_client=client, attempt_id="attempt-1", outage_patience_seconds=20)
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    for folder in (directory.root, directory.checkpoints, directory.output):
        folder.mkdir()
    return directory


@pytest.fixture
def log() -> structlog.typing.FilteringBoundLogger:
    return structlog.get_logger()


def ref(name: str, content: bytes) -> FileRef:
    return FileRef(name=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
