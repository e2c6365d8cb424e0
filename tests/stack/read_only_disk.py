"""A folder that becomes read-only under a running process: a file system of its own, for that process alone."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

# Without root, a namespace of users lets one mount what only its own processes see.
_UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
_ENTER = ["nsenter", "--mount"] if os.geteuid() == 0 else ["nsenter", "--mount", "--user", "--preserve-credentials"]
_MOUNT = 'mount --bind "$0" "$0" && exec "$@"'
# On top of it, for what is open for writing keeps a file system writable.
_MOUNT_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'


class ReadOnlyLater:
    """Skips the test where nothing can be mounted, such as in most containers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        tried = subprocess.run([*self.around(["true"])], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")

    def around(self, command: Sequence[str]) -> list[str]:
        """The command, to be run with the folder as a file system of its own; it keeps its process id."""
        return [*_UNSHARE, "sh", "-c", _MOUNT, str(self._folder), *command]

    def make_read_only(self, pid: int) -> None:
        """For the process that was started so, and for all that it starts from now on."""
        command = ["sh", "-c", _MOUNT_READ_ONLY, str(self._folder)]
        subprocess.run([*_ENTER, "--target", str(pid), *command], check=True)
