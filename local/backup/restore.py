"""Make an installation from a backup."""

import shutil
from pathlib import Path

from tunesmith.local.backup import contents, database
from tunesmith.local.backup.contents import Manifest
from tunesmith.local.backup.room import copied_bytes, require_room
from tunesmith.local.embedded.locks import DirectoryLock
from tunesmith.local.up.layout import Layout


def restore(source: Path, layout: Layout) -> Manifest:
    """Verify the backup, then fill an empty data directory with what its manifest names, and nothing else.

    Runs and cached models are made anew by workers. One that breaks off leaves a mark by which nothing takes the
    directory for an installation.

    Raises:
        DirectoryUnusable: the backup is damaged, or the data directory is not empty.
        DiskFull: there is too little room for it.
        ServerFailed: the database could not be read in.
    """
    contents.require_empty(layout.root, option="--data-dir")
    manifest = contents.verify(source)
    _require_room(source, layout, manifest)
    layout.claim()
    lock = DirectoryLock(layout.root)
    lock.acquire()
    layout.unfinished_restore.touch()
    layout.create()
    try:
        for sha256 in manifest.stored_bytes:
            name = contents.blob_name(sha256)
            contents.link_or_copy(source / name, layout.store / name)
        for name in manifest.keys:
            shutil.copy2(source / name, layout.keys / Path(name).name)
    finally:
        lock.release()
    with database.server_of(layout) as server:
        database.load(server, source / contents.DATABASE)
        database.count_on(server, manifest.stored_bytes)
    layout.unfinished_restore.unlink()
    return manifest


def _require_room(source: Path, layout: Layout, manifest: Manifest) -> None:
    copied = copied_bytes(manifest.stored_bytes, source=source, target=layout.root)
    dump = manifest.files[contents.DATABASE].bytes
    require_room(layout.root, needed_bytes=copied + dump, what="The installation")
