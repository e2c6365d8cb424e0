"""Whether a disk still takes what is written to it: one that is read-only or fails loses the trainer's last words."""

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

UNUSABLE: Final = (errno.EROFS, errno.EIO)


def disk_error(folder: Path) -> int | None:
    """The number of the error (`errno`) of a disk that is read-only or fails; None for any other, full ones too."""
    file = folder / ".probe"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, b"x")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno if error.errno in UNUSABLE else None
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
    return None
