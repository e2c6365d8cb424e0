"""SHA-256 of files on this host, and seals, which spare hashing a file again that nobody has touched."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from tunesmith.tuning.values.base import Value


class Seal(Value):
    """A file's hash, and what the kernel says of the file while its content is the one that was hashed.

    Every write, also through a mapping, and every change of the times sets the change time to the clock's, which no
    process can prevent.
    """

    sha256: str
    bytes: int
    device: int
    inode: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def on(cls, path: Path, *, sha256: str) -> "Seal":
        """Seal a file whose hash is known."""
        status = path.stat()
        return cls(
            sha256=sha256,
            bytes=status.st_size,
            device=status.st_dev,
            inode=status.st_ino,
            modified_ns=status.st_mtime_ns,
            changed_ns=status.st_ctime_ns,
        )

    def is_intact(self, path: Path) -> bool:
        """Whether the file is the one that was sealed."""
        try:
            return Seal.on(path, sha256=self.sha256) == self
        except FileNotFoundError:
            return False


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sealed_sha256(path: Path, seals: Mapping[str, Seal]) -> str:
    """Hex digest of a file, by its seal where that is intact. `seals` are found by the path as text."""
    seal = seals.get(str(path))
    return seal.sha256 if seal is not None and seal.is_intact(path) else sha256_of(path)
