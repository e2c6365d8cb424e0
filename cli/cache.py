"""The folder of things that can be made again: converted models and downloads, named by what they were made from."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """`TUNESMITH_CACHE_DIR`, else `tunesmith` under the user's cache folder (XDG base directory specification)."""
    if own := environment.get("TUNESMITH_CACHE_DIR"):
        return Path(own).expanduser()
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tunesmith"


@contextmanager
def made_aside(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` that takes its name when the block ends well, and vanishes when it does not.

    Two processes may make the same thing at once: the first one wins and the other's copy is dropped.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name[:32]}.", dir=target.parent))
    try:
        yield aside
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
