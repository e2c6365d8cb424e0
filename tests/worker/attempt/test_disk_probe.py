"""Whether a disk still takes what is written to it, on one that is really read-only."""

import errno
import subprocess
import sys
from pathlib import Path

from tests.stack.read_only_disk import ReadOnlyLater
from tunesmith.worker.attempt.disk.probe import disk_error

ASK = (
    "import sys; from pathlib import Path; from tunesmith.worker.attempt.disk.probe import disk_error; "
    "print(disk_error(Path(sys.argv[1])))"
)


def test_a_disk_that_takes_bytes_has_no_error_and_keeps_none_of_them(tmp_path: Path) -> None:
    assert disk_error(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_disk_has_the_kernels_number_for_it(tmp_path: Path) -> None:
    disk = ReadOnlyLater(tmp_path)
    remount_and_ask = 'mount -o remount,bind,ro "$1" && exec "$0" -c "$2" "$1"'
    command = ["sh", "-c", remount_and_ask, sys.executable, str(tmp_path), ASK]
    asked = subprocess.run(disk.around(command), capture_output=True, text=True, check=True)
    assert int(asked.stdout) == errno.EROFS
