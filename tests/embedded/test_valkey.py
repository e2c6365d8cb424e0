"""The embedded Valkey: only on its socket, never dropping a message to make room, back after SIGKILL."""

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.waiting import PATIENCE_SECONDS
from tunesmith.local.embedded.process import wait_until
from tunesmith.local.embedded.valkey import ValkeyServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path / "vk", log=tmp_path / "valkey.log") as running:
        yield running


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(
        unix_socket_path=str(server.socket_path), password=server.password, decode_responses=True
    ) as connected:
        yield connected


def test_it_refuses_rather_than_forgets_and_is_not_on_the_network(server: ValkeyServer, client: redis.Redis) -> None:
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert client.config_get("port") == {"port": "0"}
    assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700


def test_a_client_reconnects_to_the_same_address_after_sigkill(server: ValkeyServer, client: redis.Redis) -> None:
    client.set("before", "1")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    server.start()
    assert client.set("after", "1")


def test_a_server_that_an_earlier_run_left_behind_is_ended_first(tmp_path: Path) -> None:
    first = ValkeyServer(tmp_path / "vk", log=tmp_path / "valkey.log")
    with first.log.open("ab") as log:
        orphan = subprocess.Popen(first.command().argv, stdout=log, stderr=log, start_new_session=True)
    try:
        assert wait_until(lambda: first.ready(orphan), timeout_seconds=PATIENCE_SECONDS)
        with ValkeyServer(tmp_path / "vk", log=tmp_path / "valkey.log") as second:
            assert orphan.wait(60) == 0
            assert second.pid != orphan.pid
    finally:
        orphan.kill()
        orphan.wait()


def test_a_clean_stop_leaves_no_socket(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "vk", log=tmp_path / "valkey.log") as server:
        assert server.socket_path.exists()
    assert not server.socket_path.exists()
