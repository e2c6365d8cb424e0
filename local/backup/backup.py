"""Write a backup of an installation, which may be running."""

import shutil
from pathlib import Path

from tunesmith.local.backup import contents, database
from tunesmith.local.backup.contents import Manifest
from tunesmith.local.embedded.errors import DirectoryUnusable
from tunesmith.local.embedded.folders import private_folder
from tunesmith.local.up.layout import Layout


def back_up(layout: Layout, target: Path, *, version: str) -> Manifest:
    """Database, keys and object store into an empty folder.

    The database comes first: bytes that a row refers to stay for half a day after the row has gone, so the files that
    are copied afterwards are all there.

    Raises:
        DirectoryUnusable: there is no installation, the folder is not empty, or stored bytes are damaged.
        ServerFailed: the database could not be written.
    """
    if not layout.postgres.is_dir():
        raise DirectoryUnusable(
            f"{layout.root} holds no installation.", hint="let --data-dir name the folder that `tunesmith up` uses"
        )
    contents.require_empty(target, option="the backup's folder")
    private_folder(target)
    with database.server_of(layout) as server:
        database.dump(server, target / contents.DATABASE)
    private_folder(target / contents.KEYS)
    for key in layout.keys.glob("*.key"):
        shutil.copy2(key, target / contents.KEYS / key.name)
    blobs = layout.store / "blobs"
    for blob in blobs.glob("*/*"):
        if contents.is_blob(blob):
            contents.link_or_copy(blob, target / contents.BLOBS / blob.relative_to(blobs))
    manifest = contents.describe(target, version=version)
    (target / contents.MANIFEST).write_text(manifest.model_dump_json(indent=2))
    return manifest
