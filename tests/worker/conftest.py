"""A scripted service, and the attempt that talks to it."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from tests.worker.scripted_service import ScriptedService
from tunesmith.tuning.messages import FileRef
from tunesmith.worker.machine.slots import Slot
from tunesmith.worker.run_directory import RunDirectory
from tunesmith.worker.trainer_process.launcher import Trainer, start, trainer_environment
from tunesmith.worker.transport.control import HttpAttemptControl, service_client


@pytest.fixture
def service() -> Iterator[ScriptedService]:
    with ScriptedService() as scripted:
        yield scripted


@pytest.fixture
def control(service: ScriptedService) -> Iterator[HttpAttemptControl]:
    client = service_client(service.url, "lease-token", timeout=5)
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
def begin(run: RunDirectory, tmp_path: Path) -> Iterator[Callable[[str], Trainer]]:
    """Starts a trainer that runs this code; all that were started are ended afterwards."""
    records = tmp_path / "trainers"
    records.mkdir()
    started: list[Trainer] = []

    def begin(script: str) -> Trainer:
        environment = trainer_environment(os.environ, run_dir=run.root, cores=1, devices=())
        command = [sys.executable, "-c", script]
        started.append(
            start(command, run, environment=environment, slot=Slot(0), records=records, log_cap_bytes=64 * 1024)
        )
        return started[-1]

    yield begin
    for trainer in started:
        trainer.end()


@pytest.fixture
def log() -> structlog.typing.FilteringBoundLogger:
    return structlog.get_logger()


def ref(name: str, content: bytes) -> FileRef:
    return FileRef(name=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
