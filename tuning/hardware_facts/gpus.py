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
# What it writes beside a card's name without meaning another card.
_ADDED = {
    "nvidia", "geforce", "tesla", "quadro", "rtx", "gpu", "generation", "blackwell", "workstation", "server", "edition",
    "hbm2", "hbm2e", "hbm3", "hbm3e", "sxm2", "sxm3", "sxm4", "sxm5",
}  # fmt: skip
# Everything a worker image has: what-if questions assume it.
EVERYTHING_INSTALLED = {"torch": "2.10", "bitsandbytes": "0.50", "deepspeed": "0.19", "triton": "3.0"}
# Number, name, and GiB that are free on each: 8xA100-80G:30G.
_MACHINE = re.compile(
    r"\s*(?:(\d{1,5})\s*[x*]\s*)?([^\s:][^:]*?)\s*(?::\s*(\d{1,6}(?:\.\d{1,6})?)\s*Gi?B?)?\s*", re.IGNORECASE
)
# A GPU and the profile of its slices: `A100 3g.40gb`, `H100-80G MIG 1g.10gb`.
_SLICE = re.compile(r"(.+?)[\s_-]+(?:MIG[\s_-]*)?(\d)g\.(\d{1,3})gb", re.IGNORECASE)
_CUT = {(8, 0), (9, 0), (10, 0), (10, 3)}  # compute capabilities of GPUs that can be cut up
# Of the memory of a GPU with seven slices, by how many of them compute; a single one may have two eighths.
_EIGHTHS = {1: (1, 2), 2: (2,), 3: (4,), 4: (4,), 7: (8,)}
_FOURTHS = {1: (2,), 2: (4,), 4: (8,)}  # of an A30's, in eighths too
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
        return known._replace(
            matmul_tflops=unknown_tflops, reached_tflops=unknown_tflops, bandwidth_gb_per_second=bandwidth
        )
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
        reached_tflops=whole.reached_tflops * computing,
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
    """The known GPU that a person means by `RTX4090`, `a100-80g` or `H100 SXM`, and a driver by `H100 80GB HBM3`.

    Raises:
        InvalidRequest: none or several match; the hint names near ones.
    """
    key, keys = _key(name), _names()
    if key in keys:
        return keys[key]
    if (known := _as_drivers_write(name)) is not None:
        return known
    near = get_close_matches(key, keys, n=4, cutoff=0.65)
    names = dict.fromkeys(keys[match].name for match in near)
    hint = f"Near it: {', '.join(names)}." if names else "CPU and GPUs of NVIDIA are known: docs/hardware.md has them."
    if names and re.search(r"^[-\d]|x\d+$", name.strip()):
        hint += f" Several of them are written 2x{written(next(iter(names)))}."
    message = f"No GPU is known by the name {name!r}."
    raise InvalidRequest(message, code=ErrorCode.UNKNOWN_GPU, param="on", hint=hint)


def what_if(text: str, *, host_memory_bytes: int | None = None) -> HardwareProfile:
    """The machine described by `8xA100-80G` or `RTX4090`, idle and with everything installed.

    `1xA100:30G` has so many GiB free on each GPU, `2xA100 3g.40gb` are two slices of one. `CPU` has no GPU;
    `8xCPU:32G` has 8 cores and so much host memory.

    Raises:
        InvalidRequest: the text cannot be read, names no known GPU, or has more free than there is.
    """
    match = _MACHINE.fullmatch(text)
    if match is None:
        hint = "Write it as 1xRTX4090, 8xA100-80G, 1xA100:30G (30 GiB free) or CPU."
        raise InvalidRequest(f"{text!r} names no hardware.", code=ErrorCode.UNKNOWN_GPU, param="on", hint=hint)
    number = int(match[1] or 0)
    if match[1] and not 1 <= number <= 1024:
        raise InvalidRequest(f"{number:,} x {match[2]} in one machine is absurd.", param="on", hint="Use 1 to 1024.")
    free = int(float(match[3]) * GIB) if match[3] else None
    if match[2].lower() == "cpu":
        memory = host_memory_bytes if free is None else free
        return HardwareProfile(cpu=_host(memory, cores=number), installed=EVERYTHING_INSTALLED)
    cut = _SLICE.fullmatch(match[2])
    if cut is not None:
        gpus = _idle_slices(cut, number=number or 1, free=free)
    else:
        known = find_gpu(match[2])
        gpus = tuple(_idle(known, index, free=free) for index in range(number or 1))
    return HardwareProfile(
        gpus=gpus,
        cpu=_host(host_memory_bytes),
        installed=EVERYTHING_INSTALLED,
    )


def written(name: str) -> str:
    """A card's name as one word that `find_gpu` reads: `A100-80GB`."""
    return re.sub(r" (?=\d+GB$)", "-", name).replace(" ", "")


def _host(memory_bytes: int | None, *, cores: int = 0) -> Cpu:
    """The usual host, or one with so much memory, all of it free."""
    host = WHAT_IF_CPU.model_copy(update={"cores": cores or WHAT_IF_CPU.cores})
    if memory_bytes is None:
        return host
    if memory_bytes <= 0:
        raise InvalidRequest("A host without memory runs nothing.", param="on", hint="Write it as CPU:32G.")
    return host.model_copy(update={"memory_total_bytes": memory_bytes, "memory_free_bytes": memory_bytes})


def _idle_slices(cut: re.Match[str], *, number: int, free: int | None) -> tuple[Gpu, ...]:
    """Slices of one profile, each with its share of the GPU's memory."""
    whole, slices, box_gb = find_gpu(cut[1]), int(cut[2]), int(cut[3])
    siblings = [known for known in KNOWN_GPUS if _model_words(known) == _model_words(whole)]
    for known in sorted(siblings, key=lambda known: known is not whole):
        eighths = _eighths_of(known, slices, box_gb)
        if eighths:
            profile = f"{slices}g.{box_gb}gb"
            part = known._replace(name=f"{known.name} MIG {profile}", memory_gib=known.memory_gib * eighths / 8)
            return tuple(
                _idle(part, index, free=free).model_copy(update={"mig": True, "nvlink": False, "machine": 0})
                for index in range(number)
            )
    message = f"No {whole.name} is cut into slices of {slices}g.{box_gb}gb."
    hint = "Profiles are named by slices and memory: A100 3g.40gb, H100 1g.10gb, A30 2g.12gb."
    raise InvalidRequest(message, code=ErrorCode.UNKNOWN_GPU, param="on", hint=hint)


def _eighths_of(known: KnownGpu, slices: int, box_gb: int) -> int:
    """Eighths of the GPU's memory that such a slice has, 0 where it has no such slices; names round the memory down."""
    if known.compute_capability not in _CUT:
        return 0
    possible = (_FOURTHS if known.name == "A30" else _EIGHTHS).get(slices, ())
    return next((eighths for eighths in possible if 0.9 < box_gb / (known.box_gb * eighths / 8) <= 1.05), 0)


def _idle(known: KnownGpu, index: int, *, free: int | None) -> Gpu:
    memory = int(known.memory_gib * GIB)
    if free is not None and not 0 < free <= memory:
        message = f"No {known.name} can have {free / GIB:g} GiB free: it has {known.memory_gib:g}."
        if not free:
            message = "With no memory free nothing can be trained."
        half = f"{written(known.name)}:{max(1, int(known.memory_gib / 2))}G"
        raise InvalidRequest(message, param="on", hint=f"Write what is free behind the name, such as {half}.")
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


def _as_drivers_write(name: str) -> KnownGpu | None:
    """By the words of a card's name and its size, where every other word is one that drivers add."""
    words = _words(name)
    sizes = {word for word in words if re.fullmatch(r"\d+gb", word)}
    box_gb = max((int(size[:-2]) for size in sizes), default=None)
    known = _data_sheet(name, (box_gb or 1024) * GIB)
    if known is UNKNOWN_GPU or (box_gb is not None and box_gb != known.box_gb):
        return None
    return known if words - _model_words(known) - sizes <= _ADDED else None


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower().replace("max-q", "maxq")))


@lru_cache(maxsize=256)
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
