"""Write a backup of an installation, which may be running."""

import shutil
from pathlib import Path

from tunesmith.local.backup import contents, database
from tunesmith.local.backup.contents import Manifest
from tunesmith.local.backup.room import copied_bytes, require_room
from tunesmith.local.embedded.errors import DirectoryUnusable
from tunesmith.local.embedded.folders import private_folder
from tunesmith.local.embedded.postgres import PostgresServer
from tunesmith.local.up.layout import Layout


def back_up(layout: Layout, target: Path, *, version: str) -> Manifest:
    """Database, keys and object store into an empty folder. One that breaks off leaves no manifest.

    The database comes first: bytes that a row refers to stay for half a day after the row has gone, so the files that
    are copied afterwards are all there.

    Raises:
        DirectoryUnusable: there is no installation, the folder is not empty, or stored bytes are missing or damaged.
        DiskFull: there is too little room for it.
        ServerFailed: the database could not be written.
    """
    if not layout.postgres.is_dir():
        raise DirectoryUnusable(
            f"{layout.root} holds no installation.", hint="let --data-dir name the folder that `tunesmith up` uses"
        )
    contents.require_empty(target, option="the backup's folder")
    private_folder(target)
    with database.server_of(layout) as server:
        _require_room(server, layout, target)
        database.dump(server, target / contents.DATABASE)
        _copy_stored(server, layout, target)
    private_folder(target / contents.KEYS)
    for key in layout.keys.glob("*.key"):
        shutil.copy2(key, target / contents.KEYS / key.name)
    return contents.finish(target, version=version)


def _require_room(server: PostgresServer, layout: Layout, target: Path) -> None:
    copied = copied_bytes(database.stored_bytes(server), source=layout.store, target=target)
    require_room(target, needed_bytes=copied + database.size_bytes(server), what="The backup")


def _copy_stored(server: PostgresServer, layout: Layout, target: Path) -> None:
    """What the database counts on, and not what lies there.

    Of these hashes the keeper may delete some that nothing refers to; a restored database does not count on them.
    """
    missing = [sha256 for sha256 in database.stored_bytes(server) if not _copied(sha256, layout=layout, target=target)]
    lost = sorted(database.stored_bytes(server).keys() & set(missing))
    if lost:
        raise DirectoryUnusable(
            f"The object store lacks {len(lost)} files that the database counts on, the first is {lost[0]}.",
            hint="put them back from an older backup, or delete the files, models or jobs that have them",
        )


def _copied(sha256: str, *, layout: Layout, target: Path) -> bool:
    name = contents.blob_name(sha256)
    try:
        contents.link_or_copy(layout.store / name, target / name)
    except FileNotFoundError:
        return False
    return True
