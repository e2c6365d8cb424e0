"""The only module that looks at the machine: GPUs through NVML, else the processor and its memory."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pynvml

from tunesmith.tuning.hardware import Cpu, Gpu, HardwareProfile
from tunesmith.tuning.values.units import GIB
from tunesmith.worker.machine.cgroup import read_limits

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "flash_attn_4",
    "flash_attn",
    "flash_attn_3",
    "triton",
)


def probe(*, disk: Path, cpu_memory_gib: float | None = None) -> HardwareProfile:
    """Look at this host as it is right now. `disk` names the file system that runs are written to."""
    gpus, driver = _gpus()
    return HardwareProfile(
        gpus=gpus,
        cpu=_cpu(cpu_memory_gib),
        driver=driver,
        installed=_installed(),
        disk_free_bytes=shutil.disk_usage(_existing(disk)).free,
    )


def _gpus() -> tuple[tuple[Gpu, ...], str | None]:
    with _nvml() as available:
        if not available:
            return (), None
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        devices = [device for index in range(pynvml.nvmlDeviceGetCount()) for device in _devices(index)]
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        found = [_gpu(device, index=index) for index, device in enumerate(devices) if device.is_among(chosen)]
        return tuple(found), driver


class _Device(NamedTuple):
    """What NVML has a handle of: a GPU, or a slice of one that is cut up by MIG, which shares the GPU's other facts."""

    handle: Any
    whole: Any
    whole_index: int

    @property
    def is_slice(self) -> bool:
        """Whether it is a part of a GPU."""
        return self.handle is not self.whole

    def is_among(self, chosen: str | None) -> bool:
        """NVML knows nothing of CUDA_VISIBLE_DEVICES, by which an operator shares a host between workers.

        Slices are named there by their own identifiers, or all of a GPU's by the GPU.
        """
        if chosen is None:
            return True
        names = [name.strip() for name in chosen.split(",") if name.strip()]
        identifiers = {_identifier(self.handle), _identifier(self.whole)}
        return str(self.whole_index) in names or any(
            identifier.startswith(name) for name in names if not name.isdigit() for identifier in identifiers
        )


def _devices(index: int) -> list[_Device]:
    """A GPU, or in its place the slices that it is cut into: as a whole nothing can use it then."""
    whole = pynvml.nvmlDeviceGetHandleByIndex(index)
    is_cut = _supported(lambda: pynvml.nvmlDeviceGetMigMode(whole)[0]) == pynvml.NVML_DEVICE_MIG_ENABLE
    return [_Device(slice_, whole, index) for slice_ in _slices(whole)] if is_cut else [_Device(whole, whole, index)]


def _slices(whole: Any) -> list[Any]:
    found = []
    for place in range(_supported(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)) or 0):
        with contextlib.suppress(pynvml.NVMLError):  # places where nothing was created
            found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, place))
    return found


@contextlib.contextmanager
def _nvml() -> Iterator[bool]:
    """Yields False on a host without an NVIDIA driver, where NVML raises one of several errors."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield False
        return
    try:
        yield True
    finally:
        pynvml.nvmlShutdown()


def _gpu(device: _Device, *, index: int) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(device.handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(device.whole)
    link = _supported(lambda: pynvml.nvmlDeviceGetNvLinkState(device.whole, 0))
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(device.handle)),
        memory_total_bytes=int(memory.total),
        memory_free_bytes=int(memory.free),
        compute_capability=(int(major), int(minor)),
        nvlink=not device.is_slice and link == pynvml.NVML_FEATURE_ENABLED,
        mig=device.is_slice,
        uuid=_identifier(device.handle),
    )


def _identifier(handle: Any) -> str:
    return str(pynvml.nvmlDeviceGetUUID(handle))


def _supported(ask: Any) -> int | None:
    """Answers of features that many cards do not have."""
    try:
        return int(ask())
    except pynvml.NVMLError:
        return None


def _cpu(memory_cap_gib: float | None) -> Cpu:
    limits = read_limits()
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    if limits.memory_bytes is not None:
        total = min(total, limits.memory_bytes)
        free = min(free, max(0, limits.memory_bytes - (limits.memory_used_bytes or 0)))
    if memory_cap_gib is not None:
        total = min(total, int(memory_cap_gib * GIB))
        free = min(free, total)
    model, flags = _processor()
    return Cpu(
        model=model,
        cores=_cores(limits.cores),
        memory_total_bytes=total,
        memory_free_bytes=free,
        bf16=bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
    )


def _cores(quota: float | None) -> int:
    usable = len(os.sched_getaffinity(0))
    return usable if quota is None else max(1, min(usable, int(quota)))


def _processor() -> tuple[str, set[str]]:
    """Model name and instruction set flags; Arm calls the flags `Features` and gives no model name."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or os.uname().machine, set(flags.split())


def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _existing(path: Path) -> Path:
    absolute = path.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())
