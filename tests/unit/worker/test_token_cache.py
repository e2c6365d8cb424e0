"""Tokenised rows are shared by the jobs of one project, taken over by the worker alone, and bounded in size."""

import hashlib
import os
from pathlib import Path

import pytest

from tunesmith.worker.attempt.token_cache import TokenStore

KEYS = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(5)]


def leave(run: Path, key: str, content: bytes, *, named: bytes | None = None) -> Path:
    """What a trainer leaves in its run directory; `named` is the content that the name speaks of."""
    run.mkdir(exist_ok=True)
    digest = hashlib.sha256(content if named is None else named).hexdigest()
    entry = run / f"{key}.{digest}.safetensors"
    entry.write_bytes(content)
    return entry


def kept(store: TokenStore, project: str = "acme") -> list[bytes]:
    folder = store.folder(project)
    assert folder is not None
    return sorted(entry.read_bytes() for entry in folder.glob("*"))


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens", limit_bytes=100)


def test_what_a_trainer_has_left_is_moved_and_can_be_read_by_its_project_alone(
    tmp_path: Path, store: TokenStore
) -> None:
    entry = leave(tmp_path / "run", KEYS[0], b"rows")
    store.adopt(tmp_path / "run", project="acme")
    assert kept(store) == [b"rows"]
    assert not entry.exists()
    assert kept(store, "another") == []
    assert store.folder("acme") != store.folder("another")
    folder = store.folder("acme")
    assert folder is not None
    assert (folder / entry.name).stat().st_mode & 0o777 == 0o400


def test_what_is_not_what_its_name_says_is_left_where_it_is(tmp_path: Path, store: TokenStore) -> None:
    run, secret = tmp_path / "run", tmp_path / "secret"
    secret.write_bytes(b"of another project")
    leave(run, KEYS[0], b"torn", named=b"whole")
    leave(run, "../../elsewhere".replace("/", "_"), b"rows")
    leave(run, KEYS[1], b"x" * 101)  # more than the whole cache may hold
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    (run / f"{KEYS[2]}.{digest}.safetensors").symlink_to(secret)
    os.link(secret, run / f"{KEYS[3]}.{digest}.safetensors")
    store.adopt(run, project="acme")
    assert kept(store) == []
    assert secret.stat().st_mode & 0o400


def test_those_that_were_not_used_for_longest_make_room(tmp_path: Path, store: TokenStore) -> None:
    run, folder = tmp_path / "run", store.folder("acme")
    assert folder is not None
    for age, number in enumerate((2, 1, 0)):
        entry = leave(run, KEYS[number], bytes([number]) * 40)
        store.adopt(run, project="acme")
        if (folder / entry.name).exists():
            os.utime(folder / entry.name, (1000 + age, 1000 + age))
    assert kept(store) == [b"\x00" * 40, b"\x01" * 40]

    oldest = next(entry for entry in folder.glob("*") if entry.read_bytes()[0] == 1)
    (run / f"{oldest.name}.used").touch()
    leave(run, KEYS[3], b"\x03" * 40)
    store.adopt(run, project="acme")
    assert kept(store) == [b"\x01" * 40, b"\x03" * 40]


def test_the_limit_holds_for_all_projects_together(tmp_path: Path, store: TokenStore) -> None:
    for number, project in enumerate(("one", "two", "three")):
        leave(tmp_path / project, KEYS[number], bytes([number]) * 40)
        store.adopt(tmp_path / project, project=project)
    assert sum(len(content) for project in ("one", "two", "three") for content in kept(store, project)) <= 100


def test_a_mark_of_use_names_an_entry_and_no_other_file(tmp_path: Path, store: TokenStore) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    os.utime(victim, (1000, 1000))
    run = tmp_path / "run"
    run.mkdir()
    (run / "..used").touch()
    (run / "victim.used").touch()
    store.adopt(run, project="acme")
    assert victim.stat().st_mtime == 1000


@pytest.mark.parametrize(("limit_bytes", "project"), [(100, ""), (0, "acme")])
def test_nothing_is_kept_where_the_project_is_not_known_or_the_limit_is_zero(
    tmp_path: Path, limit_bytes: int, project: str
) -> None:
    store = TokenStore(tmp_path / "tokens", limit_bytes=limit_bytes)
    entry = leave(tmp_path / "run", KEYS[0], b"rows")
    assert store.folder(project) is None
    store.adopt(tmp_path / "run", project=project)
    assert entry.exists()
    assert not (tmp_path / "tokens").exists()
