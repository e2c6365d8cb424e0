"""How a client finds the running service."""

import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from tunesmith.cli.connection import (
    Connection,
    NoKey,
    NotConnected,
    data_dir_option,
    default_data_dir,
    find_connection,
    forget_connection,
    read_connection,
    write_connection,
)
from tunesmith.local.embedded.locks import DirectoryLock

HERE = Connection(base_url="http://127.0.0.1:8100/v1", api_key="sk-here", worker_url="http://127.0.0.1:8101")


def test_what_was_written_is_read_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = write_connection(tmp_path, HERE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_connection(tmp_path) == HERE
    forget_connection(tmp_path)
    assert read_connection(tmp_path) is None


def test_the_environment_comes_first_then_the_data_directory(tmp_path: Path) -> None:
    folder = {"TUNESMITH_DATA_DIR": str(tmp_path)}
    ours = {"TUNESMITH_URL": "http://first:8100/", "TUNESMITH_API_KEY": "1"}
    write_connection(tmp_path, HERE)
    assert find_connection(folder) == HERE
    assert find_connection({**folder, **ours}).base_url == "http://first:8100/v1"
    assert find_connection({**folder, **ours}, data_dir=tmp_path) == HERE


def test_nothing_is_sent_to_the_service_of_another_client(tmp_path: Path) -> None:
    stranger = {"OPENAI_BASE_URL": "https://stranger/v1", "OPENAI_API_KEY": "3", "TUNESMITH_DATA_DIR": str(tmp_path)}
    with pytest.raises(NotConnected):
        find_connection(stranger)


def test_a_secret_that_ends_with_a_line_is_the_same_key(tmp_path: Path) -> None:
    ours = {"TUNESMITH_URL": "http://first:8100\n", "TUNESMITH_API_KEY": "1\r\n"}
    found = find_connection({"TUNESMITH_DATA_DIR": str(tmp_path), **ours})
    assert (found.base_url, found.api_key) == ("http://first:8100/v1", "1")


def test_an_address_without_a_key_says_that_the_key_is_missing() -> None:
    with pytest.raises(NoKey, match="TUNESMITH_API_KEY is not"):
        find_connection({"TUNESMITH_URL": "http://first:8100", "TUNESMITH_API_KEY": " "})


@pytest.mark.parametrize("half", [{"TUNESMITH_URL": "http://first:8100"}, {"TUNESMITH_API_KEY": "1"}])
def test_half_a_connection_is_no_reason_to_go_elsewhere(half: dict[str, str], tmp_path: Path) -> None:
    write_connection(tmp_path, HERE)
    with pytest.raises(NotConnected, match="is set, TUNESMITH_"):
        find_connection({**half, "TUNESMITH_DATA_DIR": str(tmp_path)})


def test_no_service_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotConnected) as caught:
        find_connection({"TUNESMITH_DATA_DIR": str(tmp_path)})
    assert "tunesmith up" in (caught.value.hint or "")


def test_what_a_killed_service_left_is_told_and_its_key_is_sent_to_nobody(tmp_path: Path) -> None:
    write_connection(tmp_path, HERE)
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    assert read_connection(tmp_path) == HERE
    lock.release()  # as the kernel does; the file stays
    os.utime(tmp_path / "connection.json", (1_790_000_000,) * 2)
    with pytest.raises(NotConnected, match="it was started at 2026-09-21 14:13 UTC, and is gone") as caught:
        read_connection(tmp_path)
    assert f"tunesmith up --data-dir {tmp_path}" in str(caught.value.hint)


def test_whoever_looks_for_a_service_does_not_keep_one_from_starting(tmp_path: Path) -> None:
    (tmp_path / "up.lock").touch()
    with (tmp_path / "up.lock").open("rb") as glance:
        fcntl.flock(glance, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(glance, fcntl.LOCK_UN)).start()
        lock = DirectoryLock(tmp_path)
        lock.acquire()
        lock.release()


def test_an_option_for_a_shell_is_quoted_and_the_default_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_DATA_DIR", "/srv/tunes")
    assert data_dir_option(Path("/srv/mit Ümläut; rm")) == " --data-dir '/srv/mit Ümläut; rm'"
    assert data_dir_option(Path("/srv/tunes")) == ""


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text('{"base_url": ')
    with pytest.raises(NotConnected, match=r"connection\.json cannot be read"):
        read_connection(tmp_path)


def test_the_key_is_not_shown_by_accident() -> None:
    assert "sk-here" not in repr(HERE)


def test_the_default_data_directory_follows_the_environment() -> None:
    assert default_data_dir({"TUNESMITH_DATA_DIR": "/srv/tunes"}) == Path("/srv/tunes")
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/data/tunesmith")
    assert default_data_dir({}) == Path.home() / ".local" / "share" / "tunesmith"
