"""Plain facts about a machine. A probe fills them in; nothing here looks at anything."""

import re

from pydantic import Field

from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.units import GIB


class Gpu(Value):
    """One accelerator as the driver reports it."""

    index: int
    """The driver's number of it."""
    name: str
    """The driver's name of it."""
    memory_total_bytes: int
    """All memory."""
    memory_free_bytes: int
    """Memory that nothing used when it was looked at."""
    compute_capability: tuple[int, int]
    """CUDA's major and minor number."""
    nvlink: bool = False
    """Whether NVLink connects it to the others."""
    mig: bool = False
    """Whether it is a slice of a GPU, with a handle of its own; slices are never joined."""
    uuid: str = ""
    """The driver's lasting identifier; empty for an imagined one."""
    machine: int = 0
    """Which of several machines holds it; a run stays within one."""

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
    """The processor's name."""
    cores: int
    """Cores that training may use."""
    memory_total_bytes: int
    """All memory that training may use."""
    memory_free_bytes: int
    """What of it nothing used when it was looked at."""
    bf16: bool = False
    """Whether it has AVX-512 BF16 or AMX: without them bf16 products are emulated and slower than fp32."""


class MachineConstants(Value):
    """What no formula gives: measured once by a worker for its hardware and libraries. None: not measurable here."""

    process_bytes: int = Field(gt=0)
    """Resident memory of a trainer with its libraries imported and no model yet."""
    threads: int = Field(ge=1)
    """Threads of the matrix products."""
    matmul_16bit_flops_per_second: float = Field(gt=0)
    """Speed of large products on the device that trains; bf16 where it has it, else fp16."""
    matmul_fp32_flops_per_second: float = Field(gt=0)
    """The same in fp32."""
    cuda_context_bytes: int | None = Field(default=None, ge=0)
    """GPU memory of a process that has done nothing yet."""
    cuda_workspace_bytes: int | None = Field(default=None, ge=0)
    """GPU memory that the libraries of matrix products keep."""
    allocator_slack: float | None = Field(default=None, ge=0, le=1)
    """Memory reserved beyond what is allocated, as a share of it."""


class HardwareProfile(Value):
    """What one worker offers to one attempt."""

    gpus: tuple[Gpu, ...] = ()
    """The GPUs of the slot; empty on a CPU worker."""
    cpu: Cpu
    """Processor and host memory."""
    driver: str | None = None
    """Version of the GPU driver."""
    installed: dict[str, str] = {}
    """Version by package, for those that the planner asks about."""
    disk_free_bytes: int = 0
    """Free disk where runs are kept; zero when nobody looked."""
    kept_models: tuple[str, ...] | None = None
    """Set digests of the models that lie on that disk; null when nobody looked."""
    constants: MachineConstants | None = None
    """What the worker measured of itself; null until it has."""

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
