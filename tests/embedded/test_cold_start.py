"""How long a newcomer waits for the two servers."""

import signal
import time
from pathlib import Path

from tests.waiting import PATIENCE_SECONDS
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.embedded.process import spawn, stop, wait_until
from tunesmith.local.embedded.valkey import ValkeyServer

BOUND_SECONDS = 8.0  # under 3 s on an idle machine; the bound leaves room for a busy one
TRIES = 3  # others can only make it longer: one that keeps the bound is enough


def test_both_servers_are_ready_from_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    tries = (cold_start(tmp_path / str(number)) for number in range(TRIES))
    assert any(seconds < BOUND_SECONDS for seconds in tries)


def cold_start(folder: Path) -> float:
    """How many seconds it took."""
    folder.mkdir()
    begun = time.monotonic()
    valkey = ValkeyServer(folder / "vk", log=folder / "valkey.log")
    valkey_process = spawn(valkey.command(), log=valkey.log)
    try:
        with PostgresServer(folder / "pg", log=folder / "postgres.log"):
            assert wait_until(lambda: valkey.ready(valkey_process), timeout_seconds=PATIENCE_SECONDS)
            cold_seconds = time.monotonic() - begun
    finally:
        stop(valkey_process, first=signal.SIGTERM, grace_seconds=10)
    print(f"cold start of both servers: {cold_seconds:.2f} s")
    return cold_seconds
