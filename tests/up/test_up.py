"""`tunesmith up` as a newcomer runs it: the real servers, the real API, the real worker, and every way to kill them."""

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.stack.up import SERVICES, Up, short_folder
from tests.waiting import PATIENCE_SECONDS, eventually
from tunesmith.cli.connection import Connection, read_connection
from tunesmith.local.doctor import Level, examine
from tunesmith.local.embedded.errors import ServerFailed
from tunesmith.local.embedded.process import alive
from tunesmith.local.up import strays
from tunesmith.local.up.stack import running_stack


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def running(home: Path) -> Iterator[Up]:
    """One whole stack that the tests of this module share; each leaves it healthy. None of them trains."""
    up = Up(home / "shared", TUNESMITH_WARM_TRAINER="false")
    up.wait_ready()
    yield up
    up.end()


def _models(connection: Connection) -> httpx2.Response:
    headers = {"authorization": f"Bearer {connection.api_key}"}
    return httpx2.get(f"{connection.base_url}/models", headers=headers, timeout=10)


def _stored_keys(up: Up) -> list[str]:
    return [key_id for (key_id,) in up.query("SELECT id FROM api_keys ORDER BY id")]


def _nothing_left(data_dir: Path, pids: list[int]) -> bool:
    return not strays.find(data_dir) and not any(map(alive, pids))


def exit_code(up: Up) -> int:
    """Of one that ends by itself."""
    try:
        return up.process.wait(PATIENCE_SECONDS)
    finally:
        up.process.kill()
        up.process.wait()


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
    assert httpx2.get(f"{connection.base_url}/models").status_code == 401


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
    assert exit_code(second) == 1
    assert f"process {running.process.pid}" in second.said
    assert connection.base_url.removesuffix("/v1") in second.said
    assert running.answers()


@pytest.mark.parametrize("part", SERVICES)
def test_each_process_is_started_again_when_it_is_killed(running: Up, part: str) -> None:
    told = running.said.count("starting it again")
    running.replace(part)
    assert running.said.count("starting it again") > told


def test_the_doctor_finds_the_service_and_its_worker(running: Up) -> None:
    connection = running.wait_ready()

    def worker_is_seen() -> bool:
        return next(f for f in examine(running.data_dir) if f.subject == "workers").level is Level.OK

    eventually(worker_is_seen, what=(running.data_dir / "logs" / "worker.log").read_text)
    found = {finding.subject: finding for finding in examine(running.data_dir)}
    assert connection.base_url.removesuffix("/v1") in found["service"].text
    assert found["postgres"].level is found["valkey"].level is Level.OK
    assert f"process {running.process.pid}" in found["up"].text
    assert connection.api_key not in str(found)


@pytest.mark.slow
def test_a_caller_in_python_gets_a_running_stack_and_a_reason_when_it_cannot(running: Up, home: Path) -> None:
    with running_stack(home / "called", worker=False) as connection:
        assert _models(connection).status_code == 200
    assert not strays.find(home / "called")
    with pytest.raises(ServerFailed, match=f"process {running.process.pid}"), running_stack(running.data_dir):
        pass
    assert running.process.poll() is None
    assert running.answers()


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
        assert exit_code(up) == 1
    assert re.search(r"error  Port \d+ on 127.0.0.1 is taken", up.said)
    assert re.search(r"next   use --port \d+, which is free", up.said)
    assert "Traceback" not in up.said


def test_a_folder_of_somebody_else_is_left_alone(home: Path) -> None:
    folder = home / "thesis"
    folder.mkdir()
    (folder / "chapter-1.txt").write_text("precious")
    up = Up(folder)
    assert exit_code(up) == 1
    assert "was not made by `tunesmith up`" in up.said
    assert [path.name for path in folder.iterdir()] == ["chapter-1.txt"]


@pytest.mark.slow
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

    third = Up(home / "kept", "--no-worker", "--host", "0.0.0.0")  # noqa: S104 - what is tried
    again = third.wait_ready()
    joins = "/bin/tunesmith-worker join http://"  # others can reach it: it says how a machine joins
    eventually(lambda: joins in third.said, what=third.logs)
    assert not any(map(alive, pids))
    assert _models(again).status_code == 200
    assert _stored_keys(third) == keys
    pids = third.pids()
    assert third.stop(signal.SIGTERM) == 0, third.said
    assert _nothing_left(third.data_dir, pids)


def test_an_initdb_that_a_killed_first_start_left_is_ended_before_the_next_makes_its_own(home: Path) -> None:
    def initdb() -> psutil.Process | None:
        for child in psutil.Process(first.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "data.new" in " ".join(child.cmdline()):
                    return child
        return None

    first = Up(home / "begun", "--no-worker")
    left = eventually(initdb, pause_seconds=0.005, what=first.logs)
    left.suspend()
    first.process.kill()
    first.process.wait()
    second = Up(home / "begun", "--no-worker")
    second.wait_ready()
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
    assert second.stop() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_stop_while_it_starts_leaves_nothing_and_is_a_failure_only_by_ctrl_c(
    home: Path, number: signal.Signals, status: int
) -> None:
    up = Up(home / f"impatient-{status}")
    try:
        eventually((up.data_dir / "postgres" / "data").exists, pause_seconds=0.02)
        assert up.stop(number) == status
        assert "nothing is lost" in up.said
        eventually(lambda: not strays.find(up.data_dir))
    finally:
        up.end()
