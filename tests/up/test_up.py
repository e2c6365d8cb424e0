"""`tunesmith up` as a newcomer runs it: the real servers, the real API, the real worker, and every way to kill them."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from tunesmith.cli.connection import Connection, read_connection
from tunesmith.local.doctor import Level, examine
from tunesmith.local.embedded.errors import ServerFailed
from tunesmith.local.embedded.locks import read_holder
from tunesmith.local.embedded.process import alive, wait_until
from tunesmith.local.up import strays
from tunesmith.local.up.stack import running_stack

_TELLING = {"serve": b"serve", "keeper": b"keeper", "worker": b"run"}
READY_SECONDS = 60
STOPPED_SECONDS = 60


class Up:
    """One `tunesmith up` process."""

    def __init__(self, data_dir: Path, *options: str) -> None:
        self.data_dir = data_dir
        self.output = data_dir.with_name(f"{data_dir.name}-{uuid.uuid4().hex[:6]}.txt")
        command = [sys.executable, "-m", "tunesmith.local.up", "--data-dir", str(data_dir), "--port", "0", *options]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait_ready(self) -> Connection:
        def ready() -> bool:
            holder = read_holder(self.data_dir)
            return holder is not None and holder.pid == self.process.pid and holder.ready

        wait_until(lambda: ready() or self.process.poll() is not None, timeout_seconds=READY_SECONDS)
        connection = read_connection(self.data_dir)
        assert connection is not None, self.said
        return connection

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(STOPPED_SECONDS)

    def pids(self) -> dict[str, int]:
        """The stack's own processes. The two servers overwrite their environment, so their pid files tell."""
        found = {}
        for pid in strays.find(self.data_dir):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if os.getsid(pid) == pid:
                found |= {name: pid for name, word in _TELLING.items() if word in words}
        for name, path in {"postgres": "data/postmaster.pid", "valkey": "valkey.pid"}.items():
            found[name] = int((self.data_dir / name / path).read_text().split()[0])
        return found


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A short path, so that the sockets lie in the data directory as they do for a user."""
    folder = Path(f"/tmp/ts-{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    yield folder
    for left in folder.iterdir():
        if left.is_dir():
            strays.end(left, grace_seconds=1)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Up]:
    """One whole stack that the tests of this module share; each leaves it healthy."""
    up = Up(home / "shared")
    up.wait_ready()
    yield up
    with contextlib.suppress(subprocess.TimeoutExpired):
        up.stop()
    up.process.kill()
    up.process.wait()


def _models(connection: Connection) -> httpx.Response:
    headers = {"authorization": f"Bearer {connection.api_key}"}
    return httpx.get(f"{connection.base_url}/models", headers=headers, timeout=10)


def _answers(connection: Connection) -> bool:
    try:
        return _models(connection).status_code == 200
    except httpx.HTTPError:
        return False


def _stored_keys(up: Up) -> list[str]:
    with psycopg.connect(f"postgresql:///tunesmith?host={up.data_dir}/postgres/socket&user=tunesmith") as database:
        return [key_id for (key_id,) in database.execute("SELECT id FROM api_keys ORDER BY id")]


def _nothing_left(data_dir: Path, pids: dict[str, int]) -> bool:
    return not strays.find(data_dir) and not any(map(alive, pids.values()))


def test_it_says_where_it_is_and_how_to_go_on(running: Up) -> None:
    connection = running.wait_ready()
    assert connection.base_url in running.said
    assert "tunesmith env" in running.said
    assert "Ctrl-C" in running.said
    assert connection.api_key not in running.said
    assert "\033[" not in running.said  # not a terminal: no colour codes


def test_its_key_works_and_no_key_does_not(running: Up) -> None:
    connection = running.wait_ready()
    assert _models(connection).status_code == 200
    assert httpx.get(f"{connection.base_url}/models").status_code == 401


def test_no_key_is_in_any_log_and_nobody_else_reads_the_data(running: Up) -> None:
    secrets = [path.read_text().strip() for path in (running.data_dir / "keys").glob("*.key")]
    assert len(secrets) == 2
    for log in (running.data_dir / "logs").iterdir():
        assert not any(secret in log.read_text(errors="replace") for secret in secrets), log
    assert (running.data_dir.stat().st_mode & 0o077) == 0
    for path in (running.data_dir / "keys").iterdir():
        assert (path.stat().st_mode & 0o077) == 0


def test_a_second_up_in_the_same_directory_names_the_first(running: Up) -> None:
    connection = running.wait_ready()
    second = Up(running.data_dir)
    assert second.process.wait(30) == 1
    assert f"process {running.process.pid}" in second.said
    assert connection.base_url.removesuffix("/v1") in second.said
    assert _answers(connection)


@pytest.mark.parametrize("name", ["serve", "keeper", "worker", "valkey", "postgres"])
def test_each_process_is_started_again_when_it_is_killed(running: Up, name: str) -> None:
    connection = running.wait_ready()
    before = running.pids()
    os.kill(before[name], signal.SIGKILL)

    def replaced() -> bool:
        with contextlib.suppress(OSError, IndexError, ValueError):
            return running.pids().get(name) not in (None, before[name]) and _answers(connection)
        return False

    assert wait_until(replaced, timeout_seconds=30), running.said
    assert "starting it again" in running.said


def test_the_doctor_finds_the_service_and_its_worker(running: Up) -> None:
    connection = running.wait_ready()

    def worker_is_seen() -> bool:
        return next(f for f in examine(running.data_dir) if f.subject == "workers").level is Level.OK

    assert wait_until(worker_is_seen, timeout_seconds=30), (running.data_dir / "logs" / "worker.log").read_text()
    found = {finding.subject: finding for finding in examine(running.data_dir)}
    assert connection.base_url.removesuffix("/v1") in found["service"].text
    assert found["postgres"].level is found["valkey"].level is Level.OK
    assert f"process {running.process.pid}" in found["up"].text
    assert connection.api_key not in str(found)


def test_a_caller_in_python_gets_a_running_stack_and_a_reason_when_it_cannot(running: Up, home: Path) -> None:
    with running_stack(home / "called", worker=False) as connection:
        assert _models(connection).status_code == 200
    assert not strays.find(home / "called")
    with pytest.raises(ServerFailed, match=f"process {running.process.pid}"), running_stack(running.data_dir):
        pass
    assert running.process.poll() is None
    assert _answers(running.wait_ready())


def test_the_doctor_tells_what_is_missing_when_nothing_runs(home: Path) -> None:
    nothing = {"TUNESMITH_PG_BIN": str(home), "TUNESMITH_DATA_DIR": str(home / "none")}
    found = {finding.subject: finding for finding in examine(home / "none", environment=nothing)}
    assert found["postgres"].level is Level.FAIL
    assert found["service"].level is Level.WARN
    assert "tunesmith up" in found["service"].next_step


def test_a_taken_port_is_an_error_with_a_way_out(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        up = Up(home / "port", "--port", str(other.getsockname()[1]))
        assert up.process.wait(30) == 1
    assert re.search(r"error  Port \d+ on 127.0.0.1 is taken", up.said)
    assert re.search(r"next   use --port \d+, which is free", up.said)
    assert "Traceback" not in up.said


def test_a_folder_of_somebody_else_is_left_alone(home: Path) -> None:
    folder = home / "thesis"
    folder.mkdir()
    (folder / "chapter-1.txt").write_text("precious")
    up = Up(folder)
    assert up.process.wait(30) == 1
    assert "was not made by `tunesmith up`" in up.said
    assert [path.name for path in folder.iterdir()] == ["chapter-1.txt"]


def test_nothing_is_lost_by_a_stop_or_by_a_kill_and_nothing_runs_afterwards(home: Path) -> None:
    first = Up(home / "kept", "--no-worker")
    connection, pids = first.wait_ready(), first.pids()
    keys = _stored_keys(first)
    assert first.stop(signal.SIGINT) == 0, first.said
    assert _nothing_left(first.data_dir, pids), strays.find(first.data_dir)
    assert read_connection(first.data_dir) is None

    second = Up(home / "kept")
    again, pids = second.wait_ready(), second.pids()
    assert again.api_key == connection.api_key
    assert _models(again).status_code == 200
    assert _stored_keys(second) == keys
    second.process.kill()
    second.process.wait()

    third = Up(home / "kept", "--no-worker")
    again = third.wait_ready()
    assert not any(map(alive, pids.values()))
    assert _models(again).status_code == 200
    assert _stored_keys(third) == keys
    pids = third.pids()
    assert third.stop(signal.SIGTERM) == 0, third.said
    assert _nothing_left(third.data_dir, pids)


def test_ctrl_c_while_it_starts_leaves_nothing(home: Path) -> None:
    up = Up(home / "impatient")
    assert wait_until((up.data_dir / "postgres" / "data").exists, timeout_seconds=30)
    assert up.stop() == 130
    assert "nothing is lost" in up.said
    assert wait_until(lambda: not strays.find(up.data_dir), timeout_seconds=5)
