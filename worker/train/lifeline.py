"""The trainer dies with its worker: a thread watches a pipe whose other end only the worker holds."""

import os
import signal
import sys
import threading
from contextlib import suppress


def watch(descriptor: int | None) -> None:
    """Start the watch. At end of file the worker is gone, and so is, at once, this process group."""
    if descriptor is not None:
        threading.Thread(target=_wait_for_end, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait_for_end(descriptor: int) -> None:
    try:
        while os.read(descriptor, 64):
            pass
    except OSError as error:  # closed by other code, for example: nothing would tell that the worker is gone
        with suppress(Exception):  # whether or not anybody reads it
            text = f"The lifeline to the worker cannot be read, so this process ends: {error}"
            print(text, file=sys.stderr, flush=True)
    if os.getpgrp() == os.getpid():  # never the group of a shell that started us by hand
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
