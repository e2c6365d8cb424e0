"""Readiness, the command line, and outages."""

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import httpx2
import psycopg
import pytest
from typer.testing import CliRunner

from tests.control_plane import ControlPlane
from tests.waiting import eventually
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.service.announcer import CeleryAnnouncer
from tunesmith.service.app import create_app
from tunesmith.service.cli import app as command_line
from tunesmith.service.database.migrate import head
from tunesmith.service.settings import Settings
from tunesmith.service.web.health import clock_ahead_seconds
from tunesmith.tuning.values.hashes import sha256_of_text


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., httpx2.Response]:
    """Ask an application of this test's own."""

    def ask(path: str, **changes: str) -> httpx2.Response:
        settings = Settings(**{"store": f"file://{tmp_path}/store", **changes})  # type: ignore[arg-type]
        app = create_app(settings)

        async def run() -> httpx2.Response:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
                response = await client.get(path, headers={"authorization": "Bearer ts-x"})
            await app.state.database.close()
            return response

        import asyncio

        return asyncio.run(run())

    return ask


class TestReadiness:
    def test_it_is_ready_with_everything_there(self, control_plane: ControlPlane) -> None:
        response = control_plane.request("GET", "/readyz")
        assert (response.status_code, response.json()["checks"]) == (
            200,
            {"database": "ok", "store": "ok", "broker": "ok"},
        )
        assert control_plane.request("GET", "/healthz").json() == {"status": "ok"}

    def test_it_tells_how_far_the_clocks_of_database_and_host_are_apart(self, control_plane: ControlPlane) -> None:
        assert abs(control_plane.request("GET", "/readyz").json()["database_clock_ahead_seconds"]) < 1
        for shift_seconds in (-3600, 90):
            ahead = control_plane.run(
                lambda database, by=shift_seconds: clock_ahead_seconds(database, clock=lambda: time.time() - by)
            )
            assert ahead == pytest.approx(shift_seconds, abs=1)

    def test_a_database_that_is_away_has_no_clock(self, ask: Callable[..., httpx2.Response]) -> None:
        told = ask("/readyz", database_url="postgresql:///none?host=/nowhere&user=x").json()
        assert told["database_clock_ahead_seconds"] is None

    def test_it_tells_the_version_that_everybody_may_read_already(self, control_plane: ControlPlane) -> None:
        told = control_plane.request("GET", "/readyz", key="nobody").json()["version"]
        assert told == version("tunesmith")
        assert told == control_plane.request("GET", "/openapi.json", key="nobody").json()["info"]["version"]
        assert f"version {told}" in control_plane.request("GET", "/", key="nobody").text

    def test_a_probe_may_ask_for_the_head_alone(self, control_plane: ControlPlane) -> None:
        for path in ("/", "/healthz", "/readyz"):
            asked, told = control_plane.request("GET", path), control_plane.request("HEAD", path)
            assert (told.status_code, told.content) == (200, b"")
            assert told.headers["content-length"] == asked.headers["content-length"]

    def test_a_database_that_is_not_migrated_is_named(
        self, ask: Callable[..., httpx2.Response], empty_database_url: str
    ) -> None:
        response = ask("/readyz", database_url=empty_database_url)
        assert response.status_code == 503
        assert "tunesmith-service migrate" in response.json()["checks"]["database"]

    def test_a_database_url_may_say_how_to_connect(
        self, ask: Callable[..., httpx2.Response], fresh_database_url: str
    ) -> None:
        url = f"{fresh_database_url}&keepalives_idle=60&options=-c%20geqo%3Doff"
        assert ask("/readyz", database_url=url).status_code == 200

    def test_a_database_that_is_away_is_503_everywhere_and_the_process_lives(
        self, ask: Callable[..., httpx2.Response]
    ) -> None:
        away = "postgresql:///none?host=/nowhere&user=x"
        assert ask("/readyz", database_url=away).status_code == 503
        assert ask("/healthz", database_url=away).status_code == 200
        response = ask("/v1/models", database_url=away)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "service_unavailable")
        assert response.headers["retry-after"] == "1"

    def test_a_broker_that_is_away_is_reported_and_costs_nothing_else(
        self, ask: Callable[..., httpx2.Response], fresh_database_url: str
    ) -> None:
        response = ask("/readyz", database_url=fresh_database_url, redis_url="redis+socket:///nowhere/valkey.sock")
        assert response.status_code == 200
        assert response.json()["checks"]["broker"].startswith("away")


def test_ringing_without_a_broker_says_no_and_does_not_raise() -> None:
    assert CeleryAnnouncer("redis+socket:///nowhere/valkey.sock").wake("some-class") is False


def test_the_api_goes_on_after_the_database_dropped_every_connection(control_plane: ControlPlane) -> None:
    assert control_plane.request("GET", "/v1/models").status_code == 200
    control_plane.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    assert control_plane.request("GET", "/v1/models").status_code == 200


def test_connections_that_others_use_up_are_503_and_the_api_goes_on_when_there_are_some_again(
    control_plane: ControlPlane,
) -> None:
    database = control_plane.sql("SELECT current_database()")[0][0]
    control_plane.sql(f"ALTER DATABASE {database} CONNECTION LIMIT 0")
    try:
        control_plane.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        refused = control_plane.request("GET", "/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
        assert refused.headers["retry-after"] == "1"
        assert control_plane.request("GET", "/healthz").status_code == 200
        eventually(lambda: control_plane.request("GET", "/readyz").status_code == 503, what="another look")
    finally:
        control_plane.sql(f"ALTER DATABASE {database} CONNECTION LIMIT -1")
    assert control_plane.request("GET", "/v1/models").status_code == 200


class TestCommandLine:
    def run(self, url: str, *arguments: str) -> str:
        result = CliRunner().invoke(command_line, list(arguments), env={"DATABASE_URL": url})
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    def test_keys_are_made_shown_once_listed_and_revoked(self, fresh_database_url: str) -> None:
        key = self.run(fresh_database_url, "keys", "create", "--name", "ci", "--role", "worker", "--project", "acme")
        assert key.startswith("ts-")
        assert len(key) > 40
        listed = self.run(fresh_database_url, "keys", "list")
        assert key not in listed
        assert "acme" in listed
        self.run(fresh_database_url, "keys", "revoke", listed.split()[0])
        assert "revoked" in self.run(fresh_database_url, "keys", "list")
        with psycopg.connect(fresh_database_url) as connection:
            assert connection.execute("SELECT key_sha256 FROM api_keys").fetchone() == (sha256_of_text(key),)

    def test_migrate_works_on_an_empty_and_on_a_new_database(self, empty_database_url: str) -> None:
        for _ in range(2):
            self.run(empty_database_url, "migrate")
            with psycopg.connect(empty_database_url) as connection:
                assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(head(),)]

    def test_missing_settings_are_named(self) -> None:
        result = CliRunner().invoke(command_line, ["serve"], env={"DATABASE_URL": "", "TUNESMITH_STORE": None})
        assert result.exit_code == 2
        assert "store" in result.output


def test_a_database_server_that_comes_back_is_used_again(ask: Callable[..., httpx2.Response], tmp_path: Path) -> None:
    from tunesmith.service.database.migrate import upgrade

    root = tmp_path / "pg"
    root.mkdir()
    with PostgresServer(root, log=root / "log", durable=False) as server:
        url = server.url()
        upgrade(url)
        assert ask("/readyz", database_url=url).status_code == 200
    assert ask("/readyz", database_url=url).status_code == 503
    with PostgresServer(root, log=root / "log", durable=False):
        assert ask("/readyz", database_url=url).status_code == 200
