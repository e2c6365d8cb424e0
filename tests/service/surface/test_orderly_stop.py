"""A process of the service that is asked to stop exits with 0: a manager of services takes any other for a failure."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.control_plane import ControlPlane
from tests.ports import free_port
from tests.waiting import eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_api_exits_with_0_when_it_is_asked_to_stop(
    control_plane: ControlPlane, tmp_path: Path, number: signal.Signals
) -> None:
    settings, port, log = control_plane.settings, free_port(), tmp_path / "log"
    environment = {**os.environ, "DATABASE_URL": settings.database_url, "TUNESMITH_STORE": settings.store}
    command = [sys.executable, "-c", "from tunesmith.service.cli import main; main()", "serve", "--port", str(port)]
    with log.open("wb") as output:
        api = subprocess.Popen(command, env=environment, stderr=output)

    def is_ready() -> bool:
        try:
            return api.poll() is not None or httpx2.get(f"http://127.0.0.1:{port}/readyz").is_success
        except httpx2.TransportError:
            return False

    try:
        eventually(is_ready, what=log.read_text)
        api.send_signal(number)
        assert api.wait(60) == 0, log.read_text()
    finally:
        api.kill()
        api.wait()
