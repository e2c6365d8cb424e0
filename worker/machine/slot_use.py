"""Training has the right of way: the lock by which a slot's devices are either trained on or served from.

An attempt takes its slot by one lock (`slots.py`) before it knows of a job, and lets go when there is none. Whoever
then computes on the devices holds this second one: a trainer, or the engines that serve. So looking for a job disturbs
nobody who serves, and a job that was claimed makes them leave: the attempt holds a third lock while it waits, at which
the gateway looks. All three are the kernel's, so none outlives its holder.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydantic import ValidationError

from tunesmith.tuning.hardware import Gpu, HardwareProfile
from tunesmith.tuning.values.base import Value
from tunesmith.worker.run_directory import write_atomically

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0  # beyond the grace: for engines to end


class Serving(Value):
    """Who serves from a slot, and what was free there before it began."""

    pid: int  # of the gateway
    started_at: float  # when the kernel says that it began: its number may be another's by now
    mark: str  # in the environment of its engines, as their run directory
    grace_seconds: float
    memory_free_bytes: int
    gpu_free_bytes: tuple[int, ...] = ()

    @classmethod
    def about_to_begin(cls, hardware: HardwareProfile, *, mark: Path, grace_seconds: float) -> "Serving":
        """This process will, on hardware that is as free as this."""
        return cls(
            pid=os.getpid(),
            started_at=psutil.Process().create_time(),
            mark=str(mark),
            grace_seconds=grace_seconds,
            memory_free_bytes=hardware.cpu.memory_free_bytes,
            gpu_free_bytes=tuple(gpu.memory_free_bytes for gpu in hardware.gpus),
        )

    def kill(self) -> None:
        """SIGKILL to the gateway, with which its engines end."""
        with suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if process.create_time() == self.started_at:
                process.kill()


class StillServing(Exception):
    """The devices did not become free, whatever was ended."""


class SlotUse:
    """The use of one slot's devices; `folder` holds their lock files."""

    def __init__(self, folder: Path, devices: tuple[str, ...]) -> None:
        self._folder = folder
        self._devices = devices
        self._record = folder / f"{devices[0]}.serving.json"

    def take_to_serve(self, serving: Serving) -> tuple[int, ...] | None:
        """The descriptors that engines inherit; None while somebody trains or waits to."""
        taken = self._try("use")
        if taken is None:
            return None
        if self.is_wanted():
            _close(taken)
            return None
        write_atomically(self._record, serving.model_dump_json())
        return taken

    def is_wanted(self) -> bool:
        """Whether an attempt with a job waits for the devices."""
        free = self._try("wanted", mode=fcntl.LOCK_SH)
        if free is None:
            return True
        _close(free)
        return False

    def is_free(self) -> bool:
        """Whether nobody computes on the devices, nor waits to."""
        return not self._is_used() and not self.is_wanted()

    def take_to_train(
        self,
        end: Callable[[Serving], object],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> tuple[int, ...]:
        """Make whoever serves leave, and return the descriptors that the trainer inherits.

        `end` is called on one that has not left when its grace and a little more are over.

        Raises:
            StillServing: not even that made the devices free.
        """
        with self._wanting():
            patience_seconds = (serving.grace_seconds if (serving := self._serving()) else 0.0) + _PATIENCE_SECONDS
            taken = self._wait(patience_seconds, clock, sleep)
            if taken is None and (serving := self._serving()):
                end(serving)
                taken = self._wait(_PATIENCE_SECONDS, clock, sleep)
            if taken is None:
                raise StillServing(f"{', '.join(self._devices)} did not become free")
            self._record.unlink(missing_ok=True)
            return taken

    def at_rest(self, hardware: HardwareProfile) -> HardwareProfile:
        """The slot as an attempt would find it: what engines hold now, they will have given back."""
        serving = self._serving() if self._is_used() else None
        if serving is None:
            return hardware
        cpu = hardware.cpu
        free_bytes = min(cpu.memory_total_bytes, max(cpu.memory_free_bytes, serving.memory_free_bytes))
        gpus = tuple(_freed(gpu, before) for gpu, before in zip(hardware.gpus, serving.gpu_free_bytes, strict=False))
        return hardware.model_copy(
            update={
                "cpu": cpu.model_copy(update={"memory_free_bytes": free_bytes}),
                "gpus": (*gpus, *hardware.gpus[len(gpus) :]),
            }
        )

    def _serving(self) -> Serving | None:
        with suppress(OSError, ValidationError):
            return Serving.model_validate_json(self._record.read_bytes())
        return None

    def _is_used(self) -> bool:
        free = self._try("use", mode=fcntl.LOCK_SH)
        if free is None:
            return True
        _close(free)
        return False

    def _wait(
        self, seconds: float, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> tuple[int, ...] | None:
        deadline = clock() + seconds
        while (taken := self._try("use")) is None and clock() < deadline:
            sleep(_POLL_SECONDS)
        return taken

    @contextmanager
    def _wanting(self) -> Iterator[None]:
        descriptors = [self._open(device, "wanted") for device in self._devices]
        try:
            for descriptor in descriptors:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # others hold it for the moment of a look
            yield
        finally:
            _close(descriptors)

    def _try(self, what: str, *, mode: int = fcntl.LOCK_EX) -> tuple[int, ...] | None:
        held: list[int] = []
        for device in self._devices:
            held.append(self._open(device, what))
            try:
                fcntl.flock(held[-1], mode | fcntl.LOCK_NB)
            except OSError:
                _close(held)
                return None
        return tuple(held)

    def _open(self, device: str, what: str) -> int:
        return os.open(self._folder / f"{device}.{what}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _freed(gpu: Gpu, before_bytes: int) -> Gpu:
    free_bytes = min(gpu.memory_total_bytes, max(gpu.memory_free_bytes, before_bytes))
    return gpu.model_copy(update={"memory_free_bytes": free_bytes})


def _close(descriptors: list[int] | tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
