"""Every way to spread a method over the devices of a machine: how many, what ZeRO shares out, which optimizer, where.

The sizes that are tried do not depend on how many GPUs there are, so one more GPU only adds ways and takes none away.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tunesmith.tuning.estimates.activations import Checkpointing
from tunesmith.tuning.estimates.memory import Optimizer, Setup
from tunesmith.tuning.estimates.sharded_base import may_be_shared
from tunesmith.tuning.estimates.throughput import Basis, basis_on
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.constants import constants_of
from tunesmith.tuning.hardware_facts.devices import equal_devices
from tunesmith.tuning.hardware_facts.gpus import rates_of
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.models.linears import adapts_experts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Attention, Lora, Reason
from tunesmith.tuning.search.attention_kernel import keeps_scores, plan_attention, repeats_heads
from tunesmith.tuning.words import Method, Objective

ZeroStage = Literal[0, 1, 2, 3]
LayoutKey = tuple[str, int, ZeroStage, Optimizer, bool, bool]
UNSHARED: tuple[ZeroStage, ...] = (0,)
FULL_STAGES: tuple[ZeroStage, ...] = (1, 2, 3)
LORA_STAGES: tuple[ZeroStage, ...] = (0, 3)
STAGES = {Method.FULL: FULL_STAGES, Method.LORA: LORA_STAGES, Method.QLORA: UNSHARED}
# A GPU gains little from more tokens per micro-step than this; a CPU from more than the other.
GPU_TOKENS = (16384, 8192, 4096, 2048, 1024, 512)
CPU_TOKENS = (2048, 1024, 512)  # speeds of 960, 1,536 and 2,048 on a CPU: docs/measurements.md
UNEVEN = 1.5  # times its share that the device with most to do may have: it should not need a second micro-step
WORLD_SIZES = (*range(1, 17), *range(24, 129, 8), *range(192, 1025, 64))
CPU_USABLE_SHARE = 0.9  # other processes on the machine move too


@dataclass(frozen=True, slots=True)
class Place:
    """Equal devices of a machine, and what follows from what they are."""

    hardware: HardwareProfile
    kind: str  # of its devices: equal where everything but their number and free memory is
    basis: Basis
    attention: Attention
    attention_reason: Reason
    blocked: str | None

    @property
    def base(self) -> Setup:
        """The launch numbers that all of its layouts share."""
        return self.basis.setup

    @property
    def name(self) -> str:
        """As a sentence calls it."""
        return self.hardware.gpus[0].name if self.hardware.gpus else "machine"


class Layout(NamedTuple):
    """How a run is spread over the devices of a place, and the bytes free on the poorest of those that it uses."""

    place: Place
    world_size: int
    budget_bytes: int
    zero_stage: ZeroStage
    optimizer: Optimizer
    offload_optimizer: bool
    sharded_base: bool
    key: LayoutKey
    """Equal where durations are equal."""
    memory_key: LayoutKey
    """Equal where peaks are equal: without sharing out the number of devices does not matter."""

    @classmethod
    def of(
        cls,
        place: Place,
        world_size: int,
        budget_bytes: int,
        *,
        zero_stage: ZeroStage = 0,
        optimizer: Optimizer = "adamw",
        offload_optimizer: bool = False,
        sharded_base: bool = False,
    ) -> "Layout":
        """With the keys that a search asks for some thousand times."""
        shares = world_size if zero_stage or sharded_base else 1
        rest = zero_stage, optimizer, offload_optimizer, sharded_base
        key, memory_key = (place.kind, world_size, *rest), (place.kind, shares, *rest)
        return cls(place, world_size, budget_bytes, *rest, key, memory_key)

    @property
    def fused_passes(self) -> bool:
        """By the trainer's own passes, wherever ZeRO shares nothing out."""
        return self.zero_stage == 0

    @property
    def gathers_weights(self) -> bool:
        """Whether each device holds a part of the weights and receives the rest layer by layer."""
        return self.sharded_base or self.zero_stage == 3

    def setup(self, checkpointing: Checkpointing, tokens: int) -> Setup:
        """With these two, all launch numbers."""
        return self.place.base.but(
            world_size=self.world_size,
            zero_stage=self.zero_stage,
            optimizer=self.optimizer,
            offload_optimizer=self.offload_optimizer,
            sharded_base=self.sharded_base,
            fused_passes=self.fused_passes,
            checkpointing=checkpointing,
            tokens_per_micro_step=tokens,
        )


class Kind(NamedTuple):
    """Equal devices of a machine, and what follows from what they are alone."""

    hardware: HardwareProfile
    name: str
    device: str
    precision: Literal["bf16", "fp16", "fp32"]
    attention: Attention
    attention_reason: Reason


def kinds_of(hardware: HardwareProfile, shape: ModelShape) -> tuple[Kind, ...]:
    """The kinds of devices, those that compute most together first."""
    found = []
    for devices in equal_devices(hardware):
        precision = precision_of(devices)
        attention, reason = plan_attention(devices, shape, precision=precision)
        found.append(Kind(devices, _kind(devices), _device(devices), precision, attention, reason))
    return tuple(found)


def basis_of(
    method: Method, kind: Kind, *, spec: JobSpec, shape: ModelShape, lora: Lora, longest_row_tokens: int
) -> Basis:
    """What a method does on devices of that kind, however many there are."""
    devices = kind.hardware
    setup = Setup(
        method=method,
        device="cuda" if devices.gpus else "cpu",
        precision=kind.precision,
        tokens_per_micro_step=1,
        rank=lora.rank,
        targets=lora.target_modules,
        dropout=lora.dropout,
        double_quantization=method is Method.QLORA,
        preference_pairs=spec.objective is Objective.DPO,
        use_dora=lora.use_dora,
        float8_base=spec.lora.float8_base and method is Method.LORA,
        fused_passes=True,
        fused_attention=not keeps_scores(kind.attention, shape),
        repeats_heads=repeats_heads(devices, shape, kind.attention),
        packing=shape.attention_alone is None,
        longest_row_tokens=longest_row_tokens,
        constants=constants_of(devices),
    )
    return basis_on(devices, setup, shape, kind=kind.name, device=kind.device)


def place_of(kind: Kind, basis: Basis, *, spec: JobSpec) -> Place:
    """Where that method could run."""
    blocked = _blocked(basis.setup.method, kind.hardware, spec=spec)
    return Place(kind.hardware, kind.name, basis, kind.attention, kind.attention_reason, blocked)


def layouts(place: Place, *, spec: JobSpec, rows_per_step: int) -> Iterator[Layout]:
    """All layouts of one place; no more processes than an optimizer step has rows."""
    method, hardware = place.base.method, place.hardware
    sharding = method is not Method.QLORA and why_whole(place, spec=spec) is None
    offloading = method is Method.FULL and sharding and _host_holds_optimizer(place)
    sharing = may_be_shared(method, spec, hardware)
    budgets = budgets_bytes(hardware)
    for world_size in _world_sizes(hardware, rows_per_step=rows_per_step):
        budget = budgets[world_size - 1]
        for stage in _zero_stages(method, world_size) if sharding else UNSHARED:
            yield Layout.of(place, world_size, budget, zero_stage=stage)
        if sharing and world_size > 1:
            yield Layout.of(place, world_size, budget, sharded_base=True)
        if world_size == 1 and method is Method.FULL and "bitsandbytes" in hardware.installed:
            yield Layout.of(place, world_size, budget, optimizer="adamw_8bit")
        if offloading:
            yield Layout.of(place, world_size, budget, zero_stage=3 if world_size > 1 else 2, offload_optimizer=True)


def why_whole(place: Place, *, spec: JobSpec) -> str | None:
    """Why each of several GPUs holds the whole model, where the trainer cannot share its weights out."""
    setup = place.base
    if setup.method is not Method.QLORA:
        if "deepspeed" not in place.hardware.installed:
            return "DeepSpeed, which shares weights out, is not installed"
        if setup.precision == "fp16":
            return "weights in fp16 are not shared out here"
    wishes = [] if setup.method is Method.FULL else keeping_the_base_whole(spec)
    if not wishes:
        return None
    return f"the base stays whole for {' and '.join(wishes)}"


def keeping_the_base_whole(spec: JobSpec) -> list[str]:
    """What of a job needs every weight of the frozen base in one place."""
    wishes = {
        "merge": spec.merge,
        "use_dora": spec.lora.use_dora,
        "init pissa": spec.lora.init == "pissa",
        "float8_base": spec.lora.float8_base,
        "adapters on experts": adapts_experts(spec.lora.target_modules),
    }
    return [name for name, asked in wishes.items() if asked]


def micro_step_sizes(
    layout: Layout, *, shape: ModelShape, longest_row_tokens: int, tokens_per_step: float
) -> tuple[int, ...]:
    """Largest first: at least the longest row, at most what one optimizer step gives the device that has most to do."""
    if shape.attention_alone is not None:
        return (longest_row_tokens,)
    ladder = GPU_TOKENS if layout.place.hardware.gpus else CPU_TOKENS
    share = tokens_per_step / layout.world_size
    most = max(longest_row_tokens, _rounded_up(share * (UNEVEN if layout.world_size > 1 else 1)))
    sizes = {min(tokens, most) for tokens in ladder if tokens > longest_row_tokens}
    sizes |= {max(longest_row_tokens, min(ladder[0], _rounded_up(share))), longest_row_tokens}
    return tuple(sorted(sizes, reverse=True))


def budgets_bytes(hardware: HardwareProfile) -> list[int]:
    """Bytes free on the poorest of one device, two and so on: those with most free memory are taken."""
    if not hardware.gpus:
        return [int(hardware.cpu.memory_free_bytes * CPU_USABLE_SHARE)]
    return sorted((gpu.memory_free_bytes for gpu in hardware.gpus), reverse=True)


def precision_of(hardware: HardwareProfile) -> Literal["bf16", "fp16", "fp32"]:
    """What is computed in: the narrowest format that every device is quick in."""
    if not hardware.gpus:
        return "bf16" if hardware.cpu.bf16 else "fp32"
    return "bf16" if all(gpu.bf16 for gpu in hardware.gpus) else "fp16"


def _rounded_up(tokens: float) -> int:
    return 256 * math.ceil(tokens / 256)


def _kind(hardware: HardwareProfile) -> str:
    if not hardware.gpus:
        return "cpu"
    gpu = hardware.gpus[0]
    return f"{gpu.name}, {rates_of(gpu).name}"


def _device(hardware: HardwareProfile) -> str:
    """One of them: of slices of a GPU, which have the rates of their size, also how large it is."""
    kind = _kind(hardware)
    return f"{kind}, {hardware.gpus[0].memory_total_bytes}" if hardware.gpus and hardware.gpus[0].mig else kind


def _world_sizes(hardware: HardwareProfile, *, rows_per_step: int) -> tuple[int, ...]:
    """Slices of a GPU are never joined: the libraries that sum gradients do not know them."""
    most = 1 if any(gpu.mig for gpu in hardware.gpus) else max(1, len(hardware.gpus))
    return WORLD_SIZES[: bisect_right(WORLD_SIZES, min(most, max(1, rows_per_step)))]


def _zero_stages(method: Method, world_size: int) -> tuple[ZeroStage, ...]:
    """Adapters train data-parallel, and share out bf16 weights only when one device cannot hold them."""
    return UNSHARED if world_size == 1 else STAGES[method]


def _host_holds_optimizer(place: Place) -> bool:
    """Moments and masters in host memory: about ten times slower."""
    moments = place.basis.footprint.trainable * 12
    room = moments <= place.hardware.cpu.memory_free_bytes * CPU_USABLE_SHARE
    return bool(place.hardware.gpus) and room


def _blocked(method: Method, hardware: HardwareProfile, *, spec: JobSpec) -> str | None:
    """Why this method cannot run the job on the machine at all, whatever its memory."""
    if method is Method.FULL and spec.continues_adapter:
        return "The job continues an adapter, which full fine-tuning would throw away"
    if spec.lora.float8_base and (problem := _float8_obstacle(method, hardware, spec=spec)):
        return problem
    if method is Method.QLORA and spec.lora.init == "pissa" and not spec.continues_adapter:
        return "PiSSA takes components out of the base weights, which 4-bit ones do not allow"
    if method is Method.QLORA and "bitsandbytes" not in hardware.installed:
        return "QLoRA needs bitsandbytes, which is not installed on this worker"
    return None


def _float8_obstacle(method: Method, hardware: HardwareProfile, *, spec: JobSpec) -> str | None:
    if method is not Method.LORA:
        return "The job asks for a base in 8-bit floating point, which is for LoRA alone"
    if not hardware.gpus:
        return "A base in 8-bit floating point needs a GPU of compute capability 8.9 or higher"
    if not all(gpu.float8 for gpu in hardware.gpus):
        lowest = ".".join(map(str, min(gpu.compute_capability for gpu in hardware.gpus)))
        return f"A base in 8-bit floating point needs compute capability 8.9, this GPU has {lowest}"
    if spec.merge:
        return "An adapter over a base in 8-bit floating point cannot be merged into the base that was registered"
    return None
