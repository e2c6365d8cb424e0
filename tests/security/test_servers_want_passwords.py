"""The embedded servers know who asks: the queue wants a password, and the service's role owns its database alone."""

import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tunesmith.local.embedded.postgres import DATABASE, PostgresServer
from tunesmith.local.embedded.roles import SERVICE, SUPERUSER
from tunesmith.local.embedded.valkey import ValkeyServer

# As an installation from before the service had a role of its own left it.
_OLD = [
    "CREATE TYPE mood AS ENUM ('well')",
    "CREATE TABLE note (id serial, text text, mood mood)",
    "CREATE VIEW notes AS SELECT text FROM note",
    "CREATE SEQUENCE loose",
    "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "INSERT INTO note (text) VALUES ('kept')",
]


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    root = tmp_path_factory.mktemp("old") / "pg"
    old = PostgresServer(root, log=root.with_name("old.log"))
    old._run("initdb", "--no-sync", "--no-locale", "-E", "UTF8", "-A", "trust", "-U", SUPERUSER, "-D", str(old.data))
    old._run_alone(old.data, "postgres", [f"CREATE DATABASE {DATABASE}"], "-F")
    old._run_alone(old.data, DATABASE, _OLD, "-F")
    with PostgresServer(root, log=root.with_name("postgres.log")) as server:
        yield server


def test_the_service_is_no_superuser_and_runs_no_programs(upgraded: PostgresServer) -> None:
    with psycopg.connect(upgraded.url(), autocommit=True) as connection:
        facts = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        (row,) = connection.execute(f"SELECT {facts} FROM pg_roles WHERE rolname = current_user").fetchall()
        assert row == (False,) * 5
        for refused in (
            "COPY (SELECT 1) TO PROGRAM 'id'",
            "SELECT pg_read_file('/etc/passwd')",
            "ALTER SYSTEM SET log_statement = 'all'",
            f"SET ROLE {SUPERUSER}",
            "CREATE ROLE another SUPERUSER",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)


def test_nobody_gets_in_as_the_superuser_or_without_the_password(upgraded: PostgresServer) -> None:
    url = upgraded.url()
    without = url.partition("&password")[0]
    for wrong in (without, f"{without}&password=guessed", url.replace(f"user={SERVICE}", f"user={SUPERUSER}")):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(wrong).close()


def test_what_an_older_installation_holds_belongs_to_the_service_afterwards(upgraded: PostgresServer) -> None:
    with psycopg.connect(upgraded.url()) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("kept",)]
        connection.execute("ALTER TABLE note ADD COLUMN more int")
        connection.execute("INSERT INTO note (text) VALUES ('new')")
        connection.execute("ALTER TYPE mood RENAME VALUE 'well' TO 'fine'")
        connection.execute("DROP FUNCTION one()")
        connection.execute("DROP SEQUENCE loose")
        connection.execute("CREATE TABLE another (x int)")


def test_the_passwords_are_for_their_owners_eyes_and_the_same_after_a_start(upgraded: PostgresServer) -> None:
    file = upgraded.data.parent / "password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = PostgresServer(upgraded.data.parent, log=upgraded.log)
    assert again.url() == upgraded.url()


def test_the_queue_answers_nobody_without_its_password(tmp_path: Path) -> None:
    with ValkeyServer(tmp_path / "vk", log=tmp_path / "valkey.log") as server:
        for path in (tmp_path / "vk" / "password", tmp_path / "vk" / "valkey.conf"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert server.password.encode() not in command
        with redis.Redis(unix_socket_path=str(server.socket_path)) as stranger:
            for act in (stranger.ping, lambda: stranger.lpush("queue", "garbage"), lambda: stranger.config_get("*")):
                with pytest.raises(redis.AuthenticationError):
                    act()
        assert ValkeyServer(tmp_path / "vk", log=tmp_path / "valkey.log").password == server.password
