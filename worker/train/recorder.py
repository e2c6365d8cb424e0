"""What the trainer tells the world while it runs: metrics, events and its phase, as plain lines and files."""

import resource
import sys
import time
from typing import Any

import torch

from tunesmith.tuning.state import Phase
from tunesmith.worker.run_directory import RunDirectory, append_line, write_atomically


class Recorder:
    """Writes to one run directory. Only the main process of a run writes; the others hold a silent one."""

    def __init__(self, directory: RunDirectory, *, active: bool = True) -> None:
        self._directory = directory
        self._active = active

    def phase(self, phase: Phase) -> None:
        """Replace the current phase."""
        if self._active:
            write_atomically(self._directory.phase, phase.value)
            self.reached(phase.value)

    def reached(self, moment: str) -> None:
        """Note when a moment came: `benchmarks/latency` and a curious operator read where the time went."""
        if self._active:
            append_line(self._directory.timeline, {"reached": moment, "time": time.time()})

    def event(self, message: str, *, level: str = "info", **data: Any) -> None:
        """One line that a person should see, also on the log."""
        if self._active:
            append_line(self._directory.events, {"level": level, "message": message, "data": data})
            print(f"[{level}] {message}", file=sys.stderr, flush=True)

    def metrics(self, **values: Any) -> None:
        """One point per optimizer step."""
        if self._active:
            append_line(self._directory.metrics, values)


def peak_memory_bytes(device: torch.device) -> int:
    """Highest use so far: of the accelerator's allocator, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
