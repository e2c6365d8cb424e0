"""One trainer process: from its first line to its exit code, however it was started."""

import atexit
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from tunesmith.worker.run_directory import RunDirectory, TrainRequest
from tunesmith.worker.train import lifeline


def train_here(run_dir: Path) -> int:
    """Train what a run directory asks for; returns the exit code. The watch on the worker starts before slow imports.

    Exit codes: 0 done, EXIT_STOPPED stopped on request with a complete checkpoint, EXIT_FAILED with the reason in
    result.json.
    """
    directory = RunDirectory(run_dir.resolve())
    request = directory.request()
    lifeline.watch(request.lifeline_fd)
    _hide_unused_packages(request)
    signal.signal(signal.SIGTERM, lambda *_: directory.stop.touch())
    from tunesmith.worker.train.session import train_to_result

    return train_to_result(request, directory)


def leave(code: int) -> NoReturn:
    """End this process as Python does, but for taking its objects apart one by one, which takes a second or three."""
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()  # a checkpoint is still being written
        atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way to end properly and yet at once
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _hide_unused_packages(request: TrainRequest) -> None:
    """Libraries import what is installed: bitsandbytes, a fifth of the start-up, for 4-bit work only; deepspeed."""
    plan = request.plan
    if plan.quantization is None and plan.optimizer != "adamw_8bit":
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # Python's own way to say: not here
    if not plan.zero_stage and not plan.offload_optimizer:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]
