"""A keeper is killed between sending an event and writing that down: another sends it again, under the same id."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.control_plane import ControlPlane
from tests.service.webhooks.receiver import cancelled, deliveries, listen, receiving
from tests.waiting import eventually


@contextmanager
def keeper(plane: ControlPlane, *, faults: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own, as an operator runs it."""
    settings = plane.settings
    environment = os.environ | {
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url or "",
        "TUNESMITH_STORE": settings.store,
        "TUNESMITH_KEEPER_SECONDS": "0.2",
        "TUNESMITH_WEBHOOK_NETWORKS": "127.0.0.0/8",
        "TUNESMITH_FAULTS": faults,
    }
    command = [str(Path(sys.executable).with_name("tunesmith-service")), "keeper"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_keeper_sent_is_sent_again_under_the_same_id(control_plane: ControlPlane) -> None:
    with receiving() as receiver:
        endpoint = listen(control_plane, receiver.url)
        cancelled(control_plane)
        with keeper(control_plane, faults="after_sending=kill") as killed:
            assert killed.wait(timeout=60) == -signal.SIGKILL
        assert [one["status"] for one in deliveries(control_plane, endpoint)] == ["waiting"]
        control_plane.sql("UPDATE webhook_endpoints SET busy_until = now()")  # a minute that nobody else sends in
        with keeper(control_plane):
            eventually(lambda: deliveries(control_plane, endpoint)[0]["status"] == "delivered", seconds=60)
        assert len(receiver.ids) == 2
        assert len(set(receiver.ids)) == 1
