"""How long a newcomer waits for the two servers."""

import signal
import time
from pathlib import Path

from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.embedded.process import spawn, stop, wait_until
from tunesmith.local.embedded.valkey import ValkeyServer

BOUND_SECONDS = 8.0  # under 3 s on an idle machine; the bound leaves room for a busy one


def test_both_servers_are_ready_from_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    begun = time.monotonic()
    valkey = ValkeyServer(tmp_path / "vk", log=tmp_path / "valkey.log")
    valkey_process = spawn(valkey.command(), log=valkey.log)
    try:
        with PostgresServer(tmp_path / "pg", log=tmp_path / "postgres.log"):
            assert wait_until(lambda: valkey.ready(valkey_process), timeout_seconds=BOUND_SECONDS)
            cold_seconds = time.monotonic() - begun
    finally:
        stop(valkey_process, first=signal.SIGTERM, grace_seconds=10)
    print(f"cold start of both servers: {cold_seconds:.2f} s")
    assert cold_seconds < BOUND_SECONDS
