"""A worker that is asked to stop before it has anything to do exits with 0, as one that has worked does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["run", "serve"])
def test_a_worker_that_waits_for_its_service_leaves_at_once_and_in_order(
    tmp_path: Path, verb: str, number: signal.Signals
) -> None:
    settings = {
        "TUNESMITH_URL": "http://127.0.0.1:9",
        "TUNESMITH_WORKER_KEY": "ts-x",
        "TUNESMITH_WORK_DIR": str(tmp_path),
    }
    elsewhere = {"TUNESMITH_INFERENCE_ENGINE_URL": "http://127.0.0.1:9", "TUNESMITH_SANDBOX": "off"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "tunesmith.worker.cli", verb]
        worker = subprocess.Popen(command, env=os.environ | settings | elsewhere, stdout=output, stderr=output)
    try:
        eventually(lambda: worker.poll() is not None or "refused" in log.read_text(), what=log.read_text)
        worker.send_signal(number)
        assert worker.wait(30) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()
    assert "Traceback" not in log.read_text()


def test_a_worker_is_gone_when_its_grace_is_over_whatever_goes_wrong_on_the_way(tmp_path: Path) -> None:
    script = (
        "import structlog, sys\n"
        "from tunesmith.worker.daemon.daemon import WorkerDaemon\n"
        "from tunesmith.worker.settings import WorkerSettings\n"
        "daemon = WorkerDaemon(WorkerSettings(), name=None)\n"
        "daemon._pool = object()\n"  # which cannot be woken
        "structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stdout))\n"
        "sys.stdout.close()\n"  # as when whoever read the log is gone
        "daemon._end_in_time()\n"
    )
    settings = {
        "TUNESMITH_URL": "http://127.0.0.1:9",
        "TUNESMITH_WORKER_KEY": "ts-x",
        "TUNESMITH_WORK_DIR": str(tmp_path),
        "TUNESMITH_GRACE_SECONDS": "0.1",
    }
    assert (
        subprocess.run([sys.executable, "-c", script], check=False, env=os.environ | settings, timeout=60).returncode
        == -9
    )
