"""What known GPUs hold and how fast they are: vendors' data sheets, dense rates without sparsity."""

import re
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple

from tuning.errors import InvalidRequest
from tuning.hardware import GIB, Cpu, Gpu, HardwareProfile


class KnownGpu(NamedTuple):
    """One line of a data sheet. `matmul_tflops` is dense bf16 with fp32 accumulation; fp16 where bf16 is missing."""

    name: str
    memory_gib: float  # what the driver reports as total, slightly under the marketing figure on most cards
    matmul_tflops: float
    bandwidth_gb_per_second: float
    compute_capability: tuple[int, int]
    link_gb_per_second: float  # to a neighbour in one direction: NVLink where there is one, else PCI Express

    @property
    def nvlink(self) -> bool:
        """Whether neighbours are joined by NVLink."""
        return self.link_gb_per_second > 60


KNOWN_GPUS: tuple[KnownGpu, ...] = (
    KnownGpu("RTX 3080", 10, 59.5, 760, (8, 6), 12),
    KnownGpu("RTX 3090", 24, 71, 936, (8, 6), 12),
    KnownGpu("RTX 4080", 16, 97.5, 717, (8, 9), 12),
    KnownGpu("RTX 4090", 24, 165, 1008, (8, 9), 12),
    KnownGpu("RTX 5090", 32, 209, 1792, (12, 0), 25),
    KnownGpu("T4", 15, 65, 320, (7, 5), 6),
    KnownGpu("V100 16GB", 16, 125, 900, (7, 0), 120),
    KnownGpu("V100 32GB", 32, 125, 900, (7, 0), 120),
    KnownGpu("A10", 22.5, 125, 600, (8, 6), 12),
    KnownGpu("A10G", 22.5, 70, 600, (8, 6), 12),
    KnownGpu("L4", 22.5, 121, 300, (8, 9), 12),
    KnownGpu("L40S", 45, 362, 864, (8, 9), 12),
    KnownGpu("A40", 45, 150, 696, (8, 6), 12),
    KnownGpu("RTX A6000", 48, 155, 768, (8, 6), 12),
    KnownGpu("RTX 6000 Ada", 48, 364, 960, (8, 9), 12),
    KnownGpu("A100 40GB", 40, 312, 1555, (8, 0), 250),
    KnownGpu("A100 80GB", 80, 312, 2039, (8, 0), 250),
    KnownGpu("H100 PCIe", 80, 756, 2000, (9, 0), 25),
    KnownGpu("H100", 80, 989, 3350, (9, 0), 370),
    KnownGpu("H200", 141, 989, 4800, (9, 0), 370),
    KnownGpu("B200", 180, 2250, 8000, (10, 0), 740),
)
LEAST_GB_PER_TFLOP = 3.0  # of a card in no table, whose bandwidth nobody has measured: among the lowest of the table
UNKNOWN_GPU = KnownGpu("unknown GPU", 0, 60, 500, (8, 0), 12)

# Everything a worker image has: what-if questions assume it.
EVERYTHING_INSTALLED = {"torch": "2.10", "bitsandbytes": "0.50", "deepspeed": "0.19", "triton": "3.0"}
# Number, name, and GiB that are free on each: 8xA100-80G:30G.
_MACHINE = re.compile(
    r"\s*(?:(\d{1,5})\s*x\s*)?([^\s:][^:]*?)\s*(?::\s*(\d{1,6}(?:\.\d{1,6})?)\s*Gi?B?)?\s*", re.IGNORECASE
)
WHAT_IF_CPU = Cpu(model="CPU", cores=16, memory_total_bytes=256 * GIB, memory_free_bytes=240 * GIB, bf16=True)


def rates_of(gpu: Gpu, *, unknown_tflops: float | None = None) -> KnownGpu:
    """The data sheet of the GPU that a driver reports, matched by name and memory; a cautious guess for others."""
    known = _data_sheet(gpu.name, gpu.memory_total_bytes)
    if known is UNKNOWN_GPU and unknown_tflops is not None:
        bandwidth = max(known.bandwidth_gb_per_second, unknown_tflops * LEAST_GB_PER_TFLOP)
        return known._replace(matmul_tflops=unknown_tflops, bandwidth_gb_per_second=bandwidth)
    return known


@lru_cache(maxsize=256)
def _data_sheet(name: str, memory_total_bytes: int) -> KnownGpu:
    """Remembered, because a plan asks fifty times."""
    wanted = _words(name)
    matches = [known for known in KNOWN_GPUS if _model_words(known) <= wanted]
    if not matches:
        return UNKNOWN_GPU
    most_specific = max(len(_model_words(known)) for known in matches)
    total_gib = memory_total_bytes / GIB
    return min(
        (known for known in matches if len(_model_words(known)) == most_specific),
        key=lambda known: abs(known.memory_gib - total_gib),
    )


def find_gpu(name: str) -> KnownGpu:
    """The known GPU that a person means by `RTX4090`, `a100-80g` or `H100 SXM`.

    Raises:
        InvalidRequest: none or several match; the hint names near ones.
    """
    key = _key(name)
    keys = {_key(known.name): known for known in KNOWN_GPUS} | {
        _key(f"RTX {alias}"): gpu for alias, gpu in _ALIASES.items()
    }
    keys |= {_key(alias): gpu for alias, gpu in _ALIASES.items()}
    if key in keys:
        return keys[key]
    near = get_close_matches(key, keys, n=4, cutoff=0.4)
    names = list(dict.fromkeys(keys[match].name for match in near)) or [known.name for known in KNOWN_GPUS]
    raise InvalidRequest(
        f"No GPU is known by the name {name!r}.",
        code="unknown_gpu",
        param="on",
        hint=f"Near it: {', '.join(names)}.",
    )


def what_if(text: str, *, host_memory_bytes: int | None = None) -> HardwareProfile:
    """The machine described by `8xA100-80G` or `RTX4090`, idle and with everything installed.

    `1xA100:30G` has so many GiB free on each GPU. `CPU` has no GPU; `8xCPU:32G` has 8 cores and so much host memory.

    Raises:
        InvalidRequest: the text cannot be read, names no known GPU, or has more free than there is.
    """
    match = _MACHINE.fullmatch(text)
    if match is None:
        hint = "Write it as 1xRTX4090, 8xA100-80G, 1xA100:30G (30 GiB free) or CPU."
        raise InvalidRequest(f"{text!r} names no hardware.", code="unknown_gpu", param="on", hint=hint)
    number = int(match[1] or 0)
    if match[1] and not 1 <= number <= 1024:
        raise InvalidRequest(f"{number} {match[2]} in one machine are absurd.", param="on", hint="Use 1 to 1024.")
    free = int(float(match[3]) * GIB) if match[3] else None
    if match[2].lower() == "cpu":
        memory = host_memory_bytes if free is None else free
        return HardwareProfile(cpu=_host(memory, cores=number), installed=EVERYTHING_INSTALLED)
    known = find_gpu(match[2])
    return HardwareProfile(
        gpus=tuple(_idle(known, index, free=free) for index in range(number or 1)),
        cpu=_host(host_memory_bytes),
        installed=EVERYTHING_INSTALLED,
    )


def _host(memory_bytes: int | None, *, cores: int = 0) -> Cpu:
    """The usual host, or one with so much memory, all of it free."""
    host = WHAT_IF_CPU.model_copy(update={"cores": cores or WHAT_IF_CPU.cores})
    if memory_bytes is None:
        return host
    if memory_bytes <= 0:
        raise InvalidRequest("A host without memory runs nothing.", param="on", hint="Write it as CPU:32G.")
    return host.model_copy(update={"memory_total_bytes": memory_bytes, "memory_free_bytes": memory_bytes})


def _idle(known: KnownGpu, index: int, *, free: int | None) -> Gpu:
    memory = int(known.memory_gib * GIB)
    if free is not None and not 0 < free <= memory:
        message = f"A {known.name} cannot have {free / GIB:g} GiB free: it has {known.memory_gib:g}."
        raise InvalidRequest(message, param="on", hint=f"Write it as {known.name.replace(' ', '')}:20G.")
    return Gpu(
        index=index,
        name=known.name,
        memory_total_bytes=memory,
        memory_free_bytes=memory if free is None else free,
        compute_capability=known.compute_capability,
        nvlink=known.nvlink,
    )


def _key(name: str) -> str:
    """Letters and digits only, without the vendor's words and with `80GB` as `80g`."""
    bare = re.sub(r"nvidia|geforce|tesla|sxm\d?|\s|[-_]", "", name.lower())
    return re.sub(r"(\d+)(gib|gb|g)$", r"\1g", bare)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


def _model_words(known: KnownGpu) -> frozenset[str]:
    """Words of the name without the memory size, which drivers write in many ways."""
    return frozenset(word for word in _words(known.name) if not re.fullmatch(r"\d+gb", word)) - {"rtx"} | (
        {"ada"} if "ada" in known.name.lower() else set()
    )


_ALIASES: dict[str, KnownGpu] = {
    alias: next(known for known in KNOWN_GPUS if known.name == name)
    for alias, name in (
        ("3080", "RTX 3080"),
        ("3090", "RTX 3090"),
        ("4080", "RTX 4080"),
        ("4090", "RTX 4090"),
        ("5090", "RTX 5090"),
        ("V100", "V100 32GB"),
        ("A6000", "RTX A6000"),
        ("A6000 48GB", "RTX A6000"),
        ("RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("A100", "A100 80GB"),
        ("H100 80GB", "H100"),
        ("H200 141GB", "H200"),
    )
}
