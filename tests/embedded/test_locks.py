"""One holder per data directory, whatever happens to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.local.embedded.errors import DirectoryInUse
from tunesmith.local.embedded.locks import DirectoryLock, Holder, read_holder

HOLD = """
import sys
from pathlib import Path
from tunesmith.local.embedded.locks import DirectoryLock, Holder
lock = DirectoryLock(Path(sys.argv[1]))
lock.acquire()
import os
lock.announce(Holder(pid=os.getpid(), base_url="http://127.0.0.1:8199", ready=True))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_told_who_the_first_is_and_where_it_answers(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DirectoryInUse, match=rf"process {holder.pid} .*http://127.0.0.1:8199"):
            DirectoryLock(tmp_path).acquire()
        holder.kill()
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    assert read_holder(tmp_path) == Holder(pid=os.getpid())
    lock.release()
    assert read_holder(tmp_path) is None
