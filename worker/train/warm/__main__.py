"""Import what every trainer imports, then fork one for each request on standard input.

    python -m tunesmith.worker.train.warm

Started by a pool process of the worker, whose end is this process's too. It holds no lock, key or data, and writes
nothing.
"""

import contextlib
import ctypes
import signal
import socket
import sys

from tunesmith.worker.fork_protocol import Word, say
from tunesmith.worker.train import environment  # noqa: F401 - before torch

_CONTROL = 0
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve until the worker is gone."""
    _die_with_the_worker()
    control = socket.socket(fileno=_CONTROL)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        try:
            from tunesmith.worker.train.warm import server
        except Exception as error:  # whatever an installation may lack: trainers will say it themselves
            say(control, Word(refused=f"its imports failed ({type(error).__name__}: {error})"[:500]))
            return 1
        server.serve(control)
    return 0


def _die_with_the_worker() -> None:
    """The end of the socket is enough for a process that reads it; one that hangs is killed by the kernel."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
