"""What the trainer tells the world while it runs: metrics, events and its phase, as plain lines and files."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


class StepTimer:
    """Speed and remaining time from a moving average of steps; checkpoints do not count, evaluations apart."""

    def __init__(self, *, clock: Any = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._step_seconds: float | None = None
        self.training_seconds = 0.0
        self.evaluation_seconds = 0.0
        self.evaluations = 0
        self.tokens = 0

    def begin(self) -> None:
        """An optimizer step starts now."""
        self._began = self._clock()

    def end(self, *, tokens: int) -> float:
        """It ended; returns its non-padding tokens per second."""
        seconds = max(1e-9, self._clock() - self._began)
        self.training_seconds += seconds
        self.tokens += tokens
        recent = self._step_seconds
        self._step_seconds = seconds if recent is None else 0.9 * recent + 0.1 * seconds
        return tokens / seconds

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """An evaluation, with the answers that belong to it."""
        began = self._clock()
        yield
        self.evaluation_seconds += self._clock() - began
        self.evaluations += 1

    def remaining_seconds(self, steps: int, *, evaluations: int = 0) -> float | None:
        """Expected duration of so many more steps and evaluations, these as long as those so far on average."""
        if self._step_seconds is None:
            return None
        each = self.evaluation_seconds / self.evaluations if self.evaluations else 0.0
        return self._step_seconds * steps + each * evaluations

    def tokens_per_second(self) -> float | None:
        """Mean over all steps of this process."""
        return self.tokens / self.training_seconds if self.training_seconds else None


def peak_memory_bytes(device: torch.device) -> int:
    """Highest use so far: of the accelerator's allocator, or of this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
