"""SHA-256 of large files, told as it goes."""

import hashlib
from collections.abc import Callable
from pathlib import Path

_PIECE_BYTES = 4 * 1024 * 1024

Advance = Callable[[int], None]


def sha256_of(path: Path, *, advance: Advance = lambda _count_bytes: None) -> str:
    """Hex digest of the file. `advance` hears of every piece's size in bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()
