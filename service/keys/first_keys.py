"""The keys that a new installation starts with, each in a file: made once, however often it is started."""

import os
import tempfile
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession

from tunesmith.service.audit.actions import OPERATOR
from tunesmith.service.keys import lifecycle, store
from tunesmith.tuning.words import KeyRole


async def make(session: AsyncSession, *, role: KeyRole, has_file: bool) -> str | None:
    """A new key of this role, unless there is a file of an earlier start and a valid key: then None.

    Whoever revokes the first key does not want another at the next start.
    """
    if has_file and await store.has_valid(session, role=role):
        return None
    return (await lifecycle.create(session, name=f"first-{role}", role=role, project="default", actor=OPERATOR)).key


def write(file: Path, key: str) -> None:
    """In one step, and readable by its owner alone from the first moment on."""
    descriptor, aside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "w") as opened:
        opened.write(key + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    Path(aside).rename(file)
