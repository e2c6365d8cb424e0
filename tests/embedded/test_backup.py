"""A backup: made while the service runs, verified, and enough to get every job and its results back."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.control_plane import ControlPlane, chat_rows, make_keys
from tests.service.limits.application import serving
from tests.stack.up import short_folder
from tunesmith.local.backup import contents
from tunesmith.local.backup.backup import back_up
from tunesmith.local.backup.restore import restore
from tunesmith.local.backup.room import copied_bytes, require_room
from tunesmith.local.embedded.errors import DirectoryUnusable, DiskFull, ServerFailed
from tunesmith.local.embedded.locks import DirectoryLock
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.up.layout import Layout
from tunesmith.service.database.migrate import upgrade
from tunesmith.service.settings import Settings
from tunesmith.tuning.state import Outcome

WEIGHTS = b"the weights of an adapter" * 1000


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@contextmanager
def running(layout: Layout, keys: dict[str, str] | None = None) -> Iterator[ControlPlane]:
    """What `tunesmith up` does with a data directory, as far as a backup can tell: its lock, its servers, its API."""
    layout.claim()
    lock = DirectoryLock(layout.root)
    lock.acquire()
    layout.create()
    with PostgresServer(layout.postgres, log=layout.log("postgres")) as server:
        upgrade(server.url())
        settings = Settings(database_url=server.url(), store=f"file://{layout.store}")
        with serving(settings) as url:
            plane = ControlPlane(url=url, settings=settings, app=None)
            plane.keys = keys or make_keys(plane)
            yield plane
            plane.close()
    lock.release()


def a_finished_job(plane: ControlPlane) -> str:
    plane.add_model()
    attempt = plane.claimed()
    attempt.artifact(weights=WEIGHTS).raise_for_status()
    attempt.finish(Outcome.SUCCEEDED).raise_for_status()
    return attempt.job_id


def adapter(plane: ControlPlane, job_id: str) -> bytes:
    (artifact,) = plane.request("GET", f"/v1/fine_tuning/jobs/{job_id}/artifacts").json()["data"]
    path = f"/v1/artifacts/{artifact['id']}/files/adapter_model.safetensors"
    return plane.request("GET", path).content


def test_a_lost_installation_comes_back_with_its_jobs_adapters_files_and_keys(folder: Path) -> None:
    layout, kept = Layout(folder / "data"), folder / "backup"
    with running(layout) as plane:
        (layout.keys / "admin.key").write_text(plane.keys["admin"])
        job_id, file_id = a_finished_job(plane), plane.upload()
        keys = plane.keys
        job = plane.job(job_id)
        back_up(layout, kept, version="1")
        plane.create_job()
    shutil.rmtree(layout.root)
    restore(kept, layout)
    assert (layout.keys / "admin.key").read_text() == keys["admin"]
    with running(layout, keys) as plane:
        assert plane.job(job_id) == job
        assert adapter(plane, job_id) == WEIGHTS
        assert plane.request("GET", f"/v1/files/{file_id}/content").content == chat_rows()
        assert len(plane.request("GET", "/v1/fine_tuning/jobs").json()["data"]) == 1
        assert plane.create_job()["status"] == "queued"


def test_a_backup_of_a_stopped_installation_is_refused_when_anything_in_it_was_changed(folder: Path) -> None:
    layout, kept = Layout(folder / "data"), folder / "backup"
    with running(layout) as plane:
        plane.upload()
    back_up(layout, kept, version="1")
    with pytest.raises(DirectoryUnusable, match="is not empty"):
        restore(kept, layout)
    with pytest.raises(DirectoryUnusable, match="is not empty"):
        back_up(layout, kept, version="1")
    for name in (contents.DATABASE, next(name for name in contents.verify(kept).files if name.startswith("blobs"))):
        right = (kept / name).read_bytes()
        (kept / name).unlink()  # a second name of the installation's own file, which must not change
        (kept / name).write_bytes(right[:-1] + b"?")
        with pytest.raises(DirectoryUnusable, match=name):
            restore(kept, Layout(folder / "new"))
        (kept / name).write_bytes(right)
        (kept / name).rename(folder / "away")
        with pytest.raises(DirectoryUnusable, match=f"{name} is missing"):
            restore(kept, Layout(folder / "new"))
        (folder / "away").rename(kept / name)
    (kept / contents.MANIFEST).unlink()
    with pytest.raises(DirectoryUnusable, match="no complete backup"):
        restore(kept, Layout(folder / "new"))
    assert not (folder / "new").exists()


def test_nothing_is_restored_but_what_the_manifest_names_where_it_belongs(folder: Path) -> None:
    layout, kept, new = Layout(folder / "data"), folder / "backup", Layout(folder / "new")
    with running(layout) as plane:
        plane.upload()
    named = back_up(layout, kept, version="1").stored_bytes
    stranger = hashlib.sha256(b"nobody's").hexdigest()
    (kept / contents.blob_name(stranger)).parent.mkdir(exist_ok=True)
    (kept / contents.blob_name(stranger)).write_bytes(b"nobody's")
    (kept / contents.KEYS / "spare.key").write_text("ts-no-key-of-the-backup")
    restore(kept, new)
    assert {path.name for path in (new.store / "blobs").rglob("*") if path.is_file()} == set(named)
    assert not new.key("spare").exists()
    manifest = (kept / contents.MANIFEST).read_text()
    (kept / contents.MANIFEST).write_text(manifest.replace(contents.blob_name(next(iter(named))), "keys/../outside"))
    with pytest.raises(DirectoryUnusable, match="belongs in no backup"):
        restore(kept, Layout(folder / "newer"))


def test_bytes_that_the_keeper_deleted_before_they_were_copied_are_not_counted_on(folder: Path) -> None:
    layout, kept, new = Layout(folder / "data"), folder / "backup", Layout(folder / "new")
    with running(layout) as plane:
        plane.add_model()
        plane.claimed().put(b"nobody's")
        keys = plane.keys
        back_up(layout, kept, version="1")
    gone = hashlib.sha256(b"nobody's").hexdigest()
    (kept / contents.blob_name(gone)).unlink()
    contents.finish(kept, version="1")
    restore(kept, new)
    with running(new, keys) as plane:
        assert plane.sql("SELECT is_stored FROM blobs WHERE sha256 = %s", gone) == [(False,)]
        assert plane.sql("SELECT count(*) > 0 FROM blobs WHERE is_stored") == [(True,)]


def test_a_file_that_the_database_counts_on_and_the_store_lacks_is_told_and_no_backup_is_made(folder: Path) -> None:
    layout, kept = Layout(folder / "data"), folder / "backup"
    with running(layout) as plane:
        plane.upload()
        lost = hashlib.sha256(chat_rows()).hexdigest()
        (layout.store / contents.blob_name(lost)).unlink()
        with pytest.raises(DirectoryUnusable, match=f"lacks 1 files.*{lost}"):
            back_up(layout, kept, version="1")
    with pytest.raises(DirectoryUnusable, match="no complete backup"):
        restore(kept, Layout(folder / "new"))
    with pytest.raises(DirectoryUnusable, match="broken off"):
        back_up(layout, kept, version="1")


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(DiskFull, match=r"The backup needs about .* are free"):
        require_room(folder / "new", needed_bytes=2**60, what="The backup")
    require_room(folder / "new", needed_bytes=1, what="The backup")
    lengths = {"a": 5, "b": 7}
    assert copied_bytes(lengths, source=folder, target=folder / "new" / "below") == 0
    assert copied_bytes(lengths, source=folder, target=Path("/proc")) == 12


def test_what_was_restored_in_part_is_not_taken_for_an_installation(folder: Path) -> None:
    layout, kept, new = Layout(folder / "data"), folder / "backup", Layout(folder / "new")
    with running(layout) as plane:
        plane.upload()
    back_up(layout, kept, version="1")
    (kept / contents.DATABASE).write_bytes(b"no dump, though its hash is right")
    contents.finish(kept, version="1")
    with pytest.raises(ServerFailed):
        restore(kept, new)
    with pytest.raises(DirectoryUnusable, match="not restored to the end"):
        new.claim()


def test_there_is_nothing_to_back_up_where_no_installation_is(folder: Path) -> None:
    with pytest.raises(DirectoryUnusable, match="holds no installation"):
        back_up(Layout(folder), folder / "backup", version="1")
