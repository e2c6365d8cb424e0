"""The doctor says of each thing that is broken what it is and what to do next."""

import importlib.metadata
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from tunesmith.cli.connection import Connection
from tunesmith.local import doctor
from tunesmith.tuning.values.findings import Finding, Level
from tunesmith.tuning.values.units import GIB

HERE = Connection(base_url="http://service/v1", api_key="ts-here")


def found(checks: dict[str, str], *, status: int = 200, workers: int = 200, **fields: Any) -> dict[str, Finding]:
    """By subject, what the doctor says of a service that answers so."""
    headers = {"date": formatdate(fields.pop("now", None), usegmt=True)}
    body = {"status": "x", "checks": {"database": "ok", "store": "ok", "broker": "ok"} | checks, **fields}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/readyz":
            return httpx2.Response(status, json=body, headers=headers)
        return httpx2.Response(workers, json={"data": [{}]})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        return {finding.subject: finding for finding in doctor._ask(client, HERE)}


def test_each_check_of_the_service_that_fails_is_a_finding_with_its_next_step() -> None:
    said = found({"database": "it has no tables yet: run `tunesmith-service migrate`"}, status=503)
    assert (said["service"].level, said["database"].level) == (Level.FAIL, Level.FAIL)
    assert said["database"].text == "it has no tables yet"
    assert "run `tunesmith-service migrate`" in said["database"].next_step
    assert "store" not in said


def test_a_broker_that_is_away_is_a_warning_and_none_at_all_is_nothing() -> None:
    assert found({"broker": "away: workers ask over HTTP meanwhile"})["broker"].level is Level.WARN
    assert "broker" not in found({"broker": "none: workers ask over HTTP"})


def test_a_store_without_room_is_a_failure() -> None:
    assert found({}, store_free_bytes=GIB // 2)["store"].level is Level.FAIL
    assert "store" not in found({}, store_free_bytes=100 * GIB)


def test_a_clock_that_differs_and_a_key_that_is_unknown_are_told() -> None:
    assert found({})["clock"].level is Level.OK
    assert "behind this machine's" in found({}, now=1_000_000_000)["clock"].text
    assert found({}, workers=401)["key"].level is Level.FAIL
    assert found({}, workers=403)["workers"].level is Level.WARN


@pytest.mark.parametrize(("ahead_seconds", "words"), [(7.2, "7 s ahead of"), (-3600.0, "3600 s behind")])
def test_a_database_whose_clock_differs_from_that_of_its_service_is_a_warning(ahead_seconds: float, words: str) -> None:
    told = found({}, database_clock_ahead_seconds=ahead_seconds)["db clock"]
    assert (told.level, told.text) == (Level.WARN, f"the database's is {words} that of the service's host")
    assert "time server" in told.next_step
    assert found({}, database_clock_ahead_seconds=-4.9)["db clock"].level is Level.OK
    for unknown in ({}, {"database_clock_ahead_seconds": None}):
        assert "db clock" not in found({}, **unknown)


def test_a_service_of_another_version_is_told_by_what_readyz_says() -> None:
    ours = importlib.metadata.version("tunesmith")
    assert found({}, version=ours)["version"].text == f"{ours} on both sides"
    told = found({}, version="9.9")["version"]
    assert (told.level, told.text) == (Level.WARN, f"client {ours}, service 9.9")
    assert "tunesmith==9.9" in told.next_step


def test_a_disk_that_is_almost_full_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=GIB // 2))
    assert (doctor._disk(tmp_path).level, doctor._disk(tmp_path).text[:11]) == (Level.FAIL, "almost full")


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    inner = tmp_path / "locked" / "inner"
    inner.mkdir(parents=True)
    inner.parent.chmod(0)
    with _as_nobody():
        (finding,) = doctor._data_directory(inner, {})
        disk = doctor._disk(inner)
    inner.parent.chmod(0o700)
    assert (finding.level, "cannot be read: Permission denied" in finding.text) == (Level.FAIL, True)
    assert disk.subject == "disk"


def test_a_port_that_is_taken_is_told_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(doctor, "DEFAULT_PORT", listener.getsockname()[1])
        _, port = doctor._data_directory(tmp_path, {})
        assert (port.level, "--port" in port.next_step) == (Level.WARN, True)
        assert len(doctor._data_directory(tmp_path, {"TUNESMITH_URL": "http://elsewhere"})) == 1


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)
