"""Whether a disk has room for what is about to be written, asked before the first byte."""

import shutil
from pathlib import Path

from tunesmith.local.embedded.errors import DiskFull
from tunesmith.tuning.values.units import gib


def copied_bytes(lengths: dict[str, int], *, source: Path, target: Path) -> int:
    """What stored bytes take at the target: nothing where both are on one file system, as second names."""
    return 0 if source.stat().st_dev == _existing(target).stat().st_dev else sum(lengths.values())


def require_room(folder: Path, *, needed_bytes: int, what: str) -> None:
    """Refuse to begin what cannot end. Raises DiskFull with both numbers."""
    free = shutil.disk_usage(_existing(folder)).free
    if free < needed_bytes:
        raise DiskFull(
            f"{what} needs about {gib(needed_bytes)} at {folder}, and {gib(free)} are free.",
            hint="free some space there, or choose a folder on another disk",
        )


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
