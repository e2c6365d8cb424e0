"""Known GPUs by the names that people and drivers give them, slices of them, and machines that are only asked about."""

import re
from difflib import get_close_matches
from functools import lru_cache

from tunesmith.tuning.codes import ErrorCode
from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.hardware import Cpu, Gpu, HardwareProfile
from tunesmith.tuning.hardware_facts.gpu_table import KNOWN_GPUS, LEAST_GB_PER_TFLOP, PCIE_3, UNKNOWN_GPU, KnownGpu
from tunesmith.tuning.values.units import GIB

# What a driver calls the same chip at less power.
_SMALLER = {"laptop", "mobile", "maxq"}
# Everything a worker image has: what-if questions assume it.
EVERYTHING_INSTALLED = {"torch": "2.10", "bitsandbytes": "0.50", "deepspeed": "0.19", "triton": "3.0"}
# Number, name, and GiB that are free on each: 8xA100-80G:30G.
_MACHINE = re.compile(
    r"\s*(?:(\d{1,5})\s*x\s*)?([^\s:][^:]*?)\s*(?::\s*(\d{1,6}(?:\.\d{1,6})?)\s*Gi?B?)?\s*", re.IGNORECASE
)
WHAT_IF_CPU = Cpu(model="CPU", cores=16, memory_total_bytes=256 * GIB, memory_free_bytes=240 * GIB, bf16=True)


def rates_of(gpu: Gpu, *, unknown_tflops: float | None = None) -> KnownGpu:
    """The data sheet of the GPU that a driver reports, matched by name and memory; a cautious guess for others.

    Of a MIG slice the rates of its share of the whole GPU: a seventh of the products a slice, its memory's share of the
    bandwidth, and no link, for slices are never joined.
    """
    if gpu.mig:
        return _slice(gpu.name, gpu.memory_total_bytes)
    known = _data_sheet(gpu.name, gpu.memory_total_bytes)
    if known is UNKNOWN_GPU and unknown_tflops is not None:
        bandwidth = max(known.bandwidth_gb_per_second, unknown_tflops * LEAST_GB_PER_TFLOP)
        return known._replace(matmul_tflops=unknown_tflops, bandwidth_gb_per_second=bandwidth)
    return known


@lru_cache(maxsize=256)
def _slice(name: str, memory_total_bytes: int) -> KnownGpu:
    """`NVIDIA A100-SXM4-80GB MIG 3g.40gb`; the profile says how many of seven slices (of an A30 four) compute."""
    whole_name, _, profile = name.partition(" MIG ")
    size = re.search(r"(\d+)gb", whole_name, flags=re.IGNORECASE)
    whole = _data_sheet(whole_name, int(size[1]) * GIB if size else 1 << 60)
    slices = re.match(r"(\d)g", profile)
    parts = 4 if whole.name == "A30" else 7
    memory_share = min(1.0, memory_total_bytes / GIB / whole.memory_gib) if whole.memory_gib else 1.0
    computing = int(slices[1]) / parts if slices else memory_share
    return whole._replace(
        name=f"{whole.name} MIG {profile}".strip(),
        memory_gib=memory_total_bytes / GIB,
        matmul_tflops=whole.matmul_tflops * computing,
        bandwidth_gb_per_second=whole.bandwidth_gb_per_second * memory_share,
        link_gb_per_second=PCIE_3,
    )


@lru_cache(maxsize=256)
def _data_sheet(name: str, memory_total_bytes: int) -> KnownGpu:
    """Remembered, because a plan asks fifty times. A laptop's card is never a desktop's, whose name it has."""
    wanted = _words(name)
    matches = [
        known
        for known in KNOWN_GPUS
        if _model_words(known) <= wanted and ("laptop" in _model_words(known)) == bool(wanted & _SMALLER)
    ]
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
    key, keys = _key(name), _names()
    if key in keys:
        return keys[key]
    near = get_close_matches(key, keys, n=4, cutoff=0.4)
    names = list(dict.fromkeys(keys[match].name for match in near)) or [known.name for known in KNOWN_GPUS]
    raise InvalidRequest(
        f"No GPU is known by the name {name!r}.",
        code=ErrorCode.UNKNOWN_GPU,
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
        raise InvalidRequest(f"{text!r} names no hardware.", code=ErrorCode.UNKNOWN_GPU, param="on", hint=hint)
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
        machine=index // known.most_in_a_machine,
    )


def _key(name: str) -> str:
    """Letters and digits only, without the vendor's words and with `80GB` as `80g`."""
    bare = re.sub(r"nvidia|geforce|tesla|sxm\d?|\s|[-_]", "", name.lower())
    return re.sub(r"(\d+)(gib|gb|g)$", r"\1g", bare)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower().replace("max-q", "maxq")))


def _model_words(known: KnownGpu) -> frozenset[str]:
    """Words of the name without the memory size, which drivers write in many ways."""
    return frozenset(word for word in _words(known.name) if not re.fullmatch(r"\d+gb", word)) - {"rtx"}


@lru_cache(maxsize=1)
def _names() -> dict[str, KnownGpu]:
    """Every key of every card: with and without RTX, and with, without or instead of its own the size on the box.

    Of cards that differ in memory alone the largest has the name without a size.
    """
    keys: dict[str, KnownGpu] = {}
    for known in sorted(KNOWN_GPUS, key=lambda known: -known.box_gb):
        bare = re.sub(r"\s+\d+GB$", "", known.name)
        for name in (known.name, bare, f"{bare} {known.box_gb}GB"):
            for written in (name, re.sub(r"^(Quadro )?RTX ", "", name)):
                keys.setdefault(_key(written), known)
    keys[_key("RTX 6000 Ada Generation")] = keys[_key("RTX 6000 Ada")]
    keys[_key("RTX 3080")] = keys[_key("RTX 3080 10GB")]
    return keys
