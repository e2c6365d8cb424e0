"""Passwords of the embedded servers: made once, kept in a file for their owner's eyes."""

import os
import secrets
from pathlib import Path

from tunesmith.local.embedded.errors import DirectoryUnusable

_BYTES = 24


def new_password() -> str:
    """Letters, digits, `-` and `_`: needs no quoting anywhere."""
    return secrets.token_urlsafe(_BYTES)


def kept_password(path: Path) -> str | None:
    """The one in the file; None when there is none yet.

    Raises DirectoryUnusable when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DirectoryUnusable(f"{path} cannot be read: {error}.", hint="check who owns it") from error


def keep_password(path: Path, password: str) -> None:
    """Write it, readable by its owner alone; whole or not at all."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    with open(aside, "x", encoding="utf-8", opener=_private) as file:
        file.write(f"{password}\n")
    aside.rename(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
