"""How much of the machine others used while this run computed: `tuning.estimates.measured` weighs its speed by that.

Of the processors that this process may use: what the kernel counts as busy (a hypervisor's other guests included) less
the CPU time of the run's own processes, over all there was. Of a GPU: what NVML tells of other processes. It tells
nothing in a container that has process numbers of its own, of a slice of a GPU, and on cards that do not count.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from tunesmith.worker.train.run import RunContext

STAT = Path("/proc/stat")
SHORTEST_SECONDS = 0.2  # the kernel counts in hundredths of a second: less says nothing
LOOK_SECONDS = 2.0  # between two questions to NVML, whose own buffer holds a few seconds
_IDLE_COLUMNS = {3, 4}  # of user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these


class Usage(NamedTuple):
    """CPU seconds so far: of everybody on the processors that this process may use, and of its own tree."""

    at_seconds: float
    everybody: float
    own: float


class Neighbours:
    """Watches from `begin` on, or from its creation. On a GPU `look` must be called now and then."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self.begin()

    def begin(self) -> None:
        """Forget what was seen so far."""
        self._began = usage()
        self._gpu = GpuNeighbours(self._run.device) if self._run.device.type == "cuda" else None

    def look(self) -> None:
        """Ask what is forgotten unless somebody asks in time."""
        if self._gpu is not None:
            self._gpu.look()

    def share(self) -> float | None:
        """Of the machine, from 0 to 1: of its processors, or of a GPU where others used more of that. None: unknown.

        All processes of the run must ask.
        """
        began, now = self._began, usage()
        if began is None or now is None:
            return None
        own = self._run.sum_of_all(now.own - began.own)
        on_gpu = self._run.highest_of_all(self._gpu.share() or 0.0) if self._gpu is not None else 0.0
        on_processors = share_of_others(began, now._replace(own=began.own + own), processors=len(_own_processors()))
        return None if on_processors is None else max(on_processors, on_gpu)


def share_of_others(began: Usage, now: Usage, *, processors: int) -> float | None:
    """What others used of so many processors between two readings, from 0 to 1; None of too short a time."""
    seconds = now.at_seconds - began.at_seconds
    if seconds < SHORTEST_SECONDS:
        return None
    others = (now.everybody - began.everybody) - (now.own - began.own)
    return min(1.0, max(0.0, others / (seconds * processors)))


def usage() -> Usage | None:
    """A reading; None where the system does not tell (it is not Linux)."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return Usage(time.monotonic(), _busy_seconds(lines), _own_seconds())


class GpuNeighbours:
    """The mean utilisation of one GPU by processes that are not this one's."""

    def __init__(self, device: torch.device) -> None:
        self._handle = _handle(device)
        self._looked_at = time.monotonic()
        self._last_sample = int(time.time() * 1e6)
        self._shares: list[float] = []
        self._has_seen_itself = False

    def look(self) -> None:
        """At the samples since the last look, unless that was just now."""
        if self._handle is None or time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        own = {process.pid for process in _own_tree()}
        samples = _samples(self._handle, since=self._last_sample)
        self._has_seen_itself = self._has_seen_itself or any(sample.pid in own for sample in samples)
        self._last_sample = max((int(sample.timeStamp) for sample in samples), default=self._last_sample)
        self._shares.append(min(1.0, _used([sample for sample in samples if sample.pid not in own])))

    def share(self) -> float | None:
        """None where NVML names processes by other numbers than this one sees, or names none."""
        return sum(self._shares) / len(self._shares) if self._has_seen_itself else None


def _used(samples: list[Any]) -> float:
    """The utilisation of all processes together, each by the mean of its samples."""
    by_process: dict[int, list[float]] = {}
    for sample in samples:
        by_process.setdefault(sample.pid, []).append(sample.smUtil / 100)
    return sum(sum(shares) / len(shares) for shares in by_process.values())


def _samples(handle: Any, *, since: int) -> list[Any]:
    import pynvml

    try:
        return list(pynvml.nvmlDeviceGetProcessUtilization(handle, since))
    except pynvml.NVMLError:  # nothing since, or not on this card
        return []


def _handle(device: torch.device) -> Any:
    """NVML's name for a GPU; None where it has none."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except (pynvml.NVMLError, AttributeError):
        return None


def _busy_seconds(lines: list[str]) -> float:
    names = {f"cpu{number}" for number in _own_processors()}
    rows = [line.split() for line in lines if line.startswith("cpu")]
    ticks = sum(
        int(value)
        for name, *columns in rows
        if name in names
        for column, value in enumerate(columns[:8])
        if column not in _IDLE_COLUMNS
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Of this process, the living below it, and those of them that have ended and been waited for."""
    total = 0.0
    for process in _own_tree():
        with contextlib.suppress(psutil.Error):  # it has just ended
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _own_tree() -> list[psutil.Process]:
    process = psutil.Process()
    return [process, *process.children(recursive=True)]


def _own_processors() -> set[int]:
    return os.sched_getaffinity(0)
