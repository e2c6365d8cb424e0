"""The only module that looks at the machine: GPUs through NVML, else the processor and its memory."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pynvml

from tuning.hardware import GIB, Cpu, Gpu, HardwareProfile
from worker.cgroup import read_limits

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
        count = pynvml.nvmlDeviceGetCount()
        found = [_gpu(index, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
        return tuple(gpu for gpu in found if _visible(gpu)), driver


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


def _gpu(index: int, handle: Any) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        memory_total_bytes=int(memory.total),
        memory_free_bytes=int(memory.free),
        compute_capability=(int(major), int(minor)),
        nvlink=_supported(lambda: pynvml.nvmlDeviceGetNvLinkState(handle, 0)) == pynvml.NVML_FEATURE_ENABLED,
        mig=(_supported(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0]) or 0) == pynvml.NVML_DEVICE_MIG_ENABLE,
        uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
    )


def _supported(ask: Any) -> int | None:
    """Answers of features that many cards do not have."""
    try:
        return int(ask())
    except pynvml.NVMLError:
        return None


def _visible(gpu: Gpu) -> bool:
    """NVML knows nothing of CUDA_VISIBLE_DEVICES, by which an operator shares a host between workers."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return True
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    return str(gpu.index) in names or any(gpu.uuid.startswith(name) for name in names if not name.isdigit())


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
