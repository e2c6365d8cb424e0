"""Make an installation from a backup."""

import shutil
from pathlib import Path

from tunesmith.local.backup import contents, database
from tunesmith.local.backup.contents import Manifest
from tunesmith.local.embedded.locks import DirectoryLock
from tunesmith.local.up.layout import Layout


def restore(source: Path, layout: Layout) -> Manifest:
    """Verify the backup, then fill an empty data directory with it. Runs and cached models are made anew by workers.

    One that breaks off leaves a mark by which nothing takes the directory for an installation.

    Raises:
        DirectoryUnusable: the backup is damaged, or the data directory is not empty.
        ServerFailed: the database could not be read in.
    """
    contents.require_empty(layout.root, option="--data-dir")
    manifest = contents.verify(source)
    layout.claim()
    lock = DirectoryLock(layout.root)
    lock.acquire()
    layout.unfinished_restore.touch()
    layout.create()
    try:
        blobs = source / contents.BLOBS
        for blob in blobs.glob("*/*"):
            contents.link_or_copy(blob, layout.store / "blobs" / blob.relative_to(blobs))
        for key in (source / contents.KEYS).glob("*.key"):
            shutil.copy2(key, layout.keys / key.name)
    finally:
        lock.release()
    with database.server_of(layout) as server:
        database.load(server, source / contents.DATABASE)
    layout.unfinished_restore.unlink()
    return manifest
