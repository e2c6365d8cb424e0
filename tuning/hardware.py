"""Plain facts about a machine. A probe fills them in; nothing here looks at anything."""

import re

from pydantic import Field

from tunesmith.tuning.base import Value
from tunesmith.tuning.units import GIB


class Gpu(Value):
    """One accelerator as the driver reports it."""

    index: int
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    compute_capability: tuple[int, int]
    nvlink: bool = False
    mig: bool = False  # a slice of a GPU, with a handle of its own; slices are never joined
    uuid: str = ""
    machine: int = 0  # which of several machines holds it; a run stays within one

    @property
    def float8(self) -> bool:
        """Ada (8.9), Hopper and later have tensor cores for 8-bit floating point."""
        return self.compute_capability >= (8, 9)

    @property
    def bf16(self) -> bool:
        """Ampere (8.0) and later have bf16 tensor cores."""
        return self.compute_capability >= (8, 0)


class Cpu(Value):
    """The processor and the memory that training on it may use."""

    model: str
    cores: int
    memory_total_bytes: int
    memory_free_bytes: int
    bf16: bool = False  # AVX-512 BF16 or AMX: without it bf16 matmuls are emulated and slower than fp32


class MachineConstants(Value):
    """What no formula gives: measured once by a worker for its hardware and libraries. None: not measurable here."""

    process_bytes: int = Field(gt=0)  # a trainer with its libraries imported and no model yet, resident
    threads: int = Field(ge=1)  # of the matrix products
    matmul_16bit_flops_per_second: float = Field(gt=0)  # on the device that trains; bf16 where it has it, else fp16
    matmul_fp32_flops_per_second: float = Field(gt=0)
    cuda_context_bytes: int | None = Field(default=None, ge=0)
    cuda_workspace_bytes: int | None = Field(default=None, ge=0)
    allocator_slack: float | None = Field(default=None, ge=0, le=1)  # reserved beyond allocated, as a share of it


class HardwareProfile(Value):
    """What one worker offers to one attempt."""

    gpus: tuple[Gpu, ...] = ()
    cpu: Cpu
    driver: str | None = None
    installed: dict[str, str] = {}  # package -> version, for those that the planner asks about
    disk_free_bytes: int = 0
    constants: MachineConstants | None = None

    @property
    def device(self) -> str:
        """`cuda` when there is a GPU, else `cpu`."""
        return "cuda" if self.gpus else "cpu"

    @property
    def worker_class(self) -> str:
        """A short stable name for hardware of this kind: `2x-nvidia-a10g-22gib`, `cpu-2-cores-23gib`."""
        if self.gpus:
            gpu = self.gpus[0]
            return f"{len(self.gpus)}x-{_slug(gpu.name)}-{gpu.memory_total_bytes // GIB}gib"
        return f"cpu-{self.cpu.cores}-cores-{self.cpu.memory_total_bytes // GIB}gib"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
