"""TensorBoard's event files of a run, made aside in a process of their own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

_TOOL = "tunesmith.worker.trackers.event_files"
_SECONDS = 60


def write_event_files(metrics: Path, folder: Path) -> str | None:
    """Write them to `folder`; why there are none, or None where they are there."""
    if metrics.is_symlink() or not metrics.is_file():
        return "the run has no metrics"
    if importlib.util.find_spec("tensorboardX") is None:
        return "tensorboardX is not installed"
    try:
        command = [sys.executable, "-m", _TOOL, str(metrics), str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    return (ended.stderr.strip().splitlines() or ["no reason given"])[-1][:200] if ended.returncode else None
