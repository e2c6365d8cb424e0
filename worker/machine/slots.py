"""Which devices one attempt may use, allocated by locks that the kernel releases when the last user is dead.

Each device has a lock file. The descriptor of a held lock is inherited by the whole trainer tree, and `flock` belongs
to the open file that they share, so a device is free only when no process that could touch it is left. No bookkeeping
can disagree with that. The locks of GPUs are one folder of the host's, which all workers of a user share: two workers
see the same GPUs. Those of CPU slots are a worker's own, because it shares out only the memory that it was given.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import TunesmithError
from tunesmith.tuning.hardware import Gpu, HardwareProfile
from tunesmith.worker.machine.slot_use import SlotUse

_POLL_SECONDS = 0.05


class UnsafeLocks(TunesmithError):
    """The folder of the host's locks belongs to somebody else, who could hold or remove them."""

    code = ErrorCode.WORK_DIR_IN_USE


@dataclass
class Slot:
    """Devices held by this process, and by every process that inherits `descriptors`."""

    index: int
    descriptors: tuple[int, ...] = field(default=())

    def also_hold(self, descriptors: tuple[int, ...]) -> None:
        """Hold and hand on these, too."""
        self.descriptors += descriptors

    def release(self) -> None:
        """Let go of this process's hold; children that inherited it still hold it."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


class Slots:
    """All slots of one worker. `devices[i]` names the lock files of slot i."""

    def __init__(self, folder: Path, devices: tuple[tuple[str, ...], ...]) -> None:
        self._folder = folder
        self._devices = devices

    @property
    def count(self) -> int:
        """How many attempts can run at once."""
        return len(self._devices)

    def use(self, index: int) -> SlotUse:
        """Whether the devices of a slot are trained on or served from."""
        return SlotUse(self._folder, self._devices[index])

    def busy(self) -> int:
        """How many slots some living process holds."""
        return sum(1 for index in range(self.count) if not self._is_free(index))

    def acquire(
        self,
        *,
        wait_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Slot | None:
        """Take any free slot, waiting a bounded time for one; None when all stay busy."""
        deadline = clock() + wait_seconds
        while True:
            for index in range(self.count):
                descriptors = self._try_lock(index, fcntl.LOCK_EX)
                if descriptors is not None:
                    return Slot(index=index, descriptors=descriptors)
            if clock() >= deadline:
                return None
            sleep(_POLL_SECONDS)

    def _is_free(self, index: int) -> bool:
        """A shared lock is enough to know. Another's `acquire` may miss for that moment, and tries again."""
        descriptors = self._try_lock(index, fcntl.LOCK_SH)
        if descriptors is None:
            return False
        Slot(index=index, descriptors=descriptors).release()
        return True

    def _try_lock(self, index: int, mode: int) -> tuple[int, ...] | None:
        held: list[int] = []
        for device in self._devices[index]:
            descriptor = os.open(self._folder / f"{device}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held.append(descriptor)
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except OSError:
                Slot(index=index, descriptors=tuple(held)).release()
                return None
        return tuple(held)


def gpu_locks(environment: Mapping[str, str]) -> Path:
    """The folder of this host's GPU locks, made if it is not there: one for all workers of the same user.

    Raises:
        UnsafeLocks: it is not this user's alone.
    """
    runtime = environment.get("XDG_RUNTIME_DIR")
    own = Path(runtime) / "tunesmith-gpus" if runtime and Path(runtime).is_dir() else None
    folder = own or Path(tempfile.gettempdir()) / f"tunesmith-gpus-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UnsafeLocks(
            f"{folder} is not a folder of this user's alone.",
            hint="Remove it, or set XDG_RUNTIME_DIR to a private folder that all workers of this host share.",
        )
    return folder


def slots_of(hardware: HardwareProfile, *, count: int, folder: Path, shared: Path) -> Slots:
    """Divide a host into equal slots: GPUs, locked in `shared`, or shares of the processor, locked in `folder`.

    Raises:
        ValueError: the GPUs cannot be shared out evenly.
    """
    if not hardware.gpus:
        return Slots(folder, tuple((f"cpu-{index}",) for index in range(count)))
    if len(hardware.gpus) % count:
        raise ValueError(f"{len(hardware.gpus)} GPUs cannot be divided evenly into TUNESMITH_SLOTS={count}.")
    return Slots(shared, tuple(tuple(_lock_name(gpu) for gpu in _share(hardware, i, count)) for i in range(count)))


def hardware_of_slot(hardware: HardwareProfile, *, index: int, count: int) -> HardwareProfile:
    """What one slot offers: its own GPUs, or an equal share of cores and memory."""
    cpu = hardware.cpu
    share = cpu.model_copy(
        update={
            "cores": max(1, cpu.cores // count),
            "memory_total_bytes": cpu.memory_total_bytes // count,
            "memory_free_bytes": min(cpu.memory_free_bytes, cpu.memory_total_bytes // count),
        }
    )
    return hardware.model_copy(update={"gpus": _share(hardware, index, count), "cpu": share})


def _lock_name(gpu: Gpu) -> str:
    """Workers may see different GPUs under one index; the identifier of the device is the same for all."""
    return gpu.uuid or f"gpu-{gpu.index}"


def _share(hardware: HardwareProfile, index: int, count: int) -> tuple[Gpu, ...]:
    size = len(hardware.gpus) // count
    return hardware.gpus[index * size : (index + 1) * size]
