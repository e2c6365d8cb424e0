"""What lies where in a data directory."""

from pathlib import Path

from tunesmith.local.embedded import locks
from tunesmith.local.embedded.errors import DirectoryUnusable
from tunesmith.local.embedded.folders import private_folder

_HARMLESS = {"lost+found", ".DS_Store"}


class Layout:
    """Paths under one data directory.

    up.lock            held by the running `tunesmith up`
    connection.json    where it answers and with which key (0600), while it runs
    postgres/ valkey/  the servers' files and sockets
    store/             the object store: files, models, artifacts
    spool/             uploads until they are checked
    work/              the worker's run directories and model cache
    keys/              the admin's and the worker's key (0600)
    logs/              one log per process
    restore.unfinished there while a backup is read in
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.postgres = root / "postgres"
        self.valkey = root / "valkey"
        self.store = root / "store"
        self.spool = root / "spool"
        self.work = root / "work"
        self.keys = root / "keys"
        self.logs = root / "logs"
        self.unfinished_restore = root / "restore.unfinished"

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.logs / f"{name}.log"

    def key(self, role: str) -> Path:
        """The key minted for one role."""
        return self.keys / f"{role}.key"

    def claim(self) -> None:
        """Make the root.

        Raises:
            DirectoryUnusable: it holds something of somebody else's, or half of what a backup has.
        """
        private = not self.root.exists() or not self._foreign()
        if not private:
            raise DirectoryUnusable(
                f"{self.root} is not empty and was not made by `tunesmith up`.",
                hint="choose an empty or a new folder as --data-dir",
            )
        if self.unfinished_restore.exists():
            raise DirectoryUnusable(
                f"{self.root} was not restored to the end: a part of what the backup has is missing.",
                hint="delete the folder, and restore the backup again",
            )
        private_folder(self.root)

    def create(self) -> None:
        """Make the folders. Raises DirectoryUnusable or DiskFull."""
        for folder in (self.store, self.spool, self.work, self.keys, self.logs):
            private_folder(folder)

    def _foreign(self) -> bool:
        try:
            names = {entry.name for entry in self.root.iterdir()} - _HARMLESS
        except NotADirectoryError as error:
            raise DirectoryUnusable(f"{self.root} is a file.", hint="choose a folder as --data-dir") from error
        except PermissionError as error:
            raise DirectoryUnusable(
                f"{self.root} cannot be read: {error.strerror}.", hint="choose a --data-dir that you may write to"
            ) from error
        return bool(names) and locks.FILE_NAME not in names
