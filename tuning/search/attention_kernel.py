"""Which attention kernel a run uses, from facts about the machine and the model alone.

The planner names one; the trainer tries it where it runs and takes the next of the same ladder when it fails there.
"""

from collections.abc import Collection

from tunesmith.tuning.engine import shares_heads
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.models.packing import OwnAttention
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Attention, PlanRule, Reason

Capability = tuple[int, int]

# Fastest first. All compute the same: causal, within one segment, perhaps within a sliding window.
GPU_LADDER: tuple[Attention, ...] = (
    "flash_attention_4", "flash_attention_3", "flash_attention_2", "torch_flash", "flex", "sdpa",
)  # fmt: skip
CPU_LADDER: tuple[Attention, ...] = ("blocked", "sdpa")
NAMES: dict[Attention, str] = {
    "flash_attention_4": "FlashAttention 4",
    "flash_attention_3": "FlashAttention 3",
    "flash_attention_2": "FlashAttention 2",
    "torch_flash": "the FlashAttention inside PyTorch",
    "flex": "FlexAttention",
    "sdpa": "PyTorch's scaled_dot_product_attention, one segment at a time",
    "blocked": "matrix products over blocks of queries",
}
NEEDED_PACKAGES: dict[Attention, str] = {
    "flash_attention_4": "flash_attn_4",
    "flash_attention_3": "flash_attn_3",
    "flash_attention_2": "flash_attn",
    "flex": "triton",
}
MAX_FLASH_HEAD_SIZE = 256
MAX_FLASH_4_HEAD_SIZE = 128
# The packages' entry for packed rows takes a cap; PyTorch's own entry, which also reaches FlashAttention 4, takes none.
CAP_SCORES: frozenset[Attention] = frozenset({"flash_attention_3", "flash_attention_2", "flex", "sdpa", "blocked"})
HAVE_SINKS: frozenset[Attention] = frozenset({"flex", "sdpa"})


def plan_attention(hardware: HardwareProfile, shape: ModelShape, *, precision: str) -> tuple[Attention, Reason]:
    """The fastest kernel that every device of this machine can run, and why the faster ones cannot."""
    if shape.attention_alone is not None:
        return "sdpa", Reason(rule=PlanRule.PACKING, text=_alone(shape.family, shape.attention_alone))
    capabilities: list[Capability | None] = [*dict.fromkeys(gpu.compute_capability for gpu in hardware.gpus)] or [None]
    rejected: list[str] = []
    for attention in ladder(on_gpu=bool(hardware.gpus)):
        problems = (
            obstacle(
                attention,
                capability=capability,
                installed=hardware.installed,
                precision=precision,
                shape=shape,
            )
            for capability in capabilities
        )
        problem = next((problem for problem in problems if problem), None)
        if problem is None:
            return attention, Reason(rule=PlanRule.ATTENTION, text=_sentence(attention, rejected))
        rejected.append(f"{NAMES[attention]} {problem}")
    raise AssertionError("the last of each ladder runs everywhere")


def keeps_scores(attention: Attention, shape: ModelShape) -> bool:
    """Whether a layer keeps all its scores for the backward pass, which grow with the square of a row.

    Every kernel of the ladders does without, also memory-efficient attention behind `sdpa` before compute capability
    8.0. What none of them computes is written out: a class's own attention, sinks, and caps where `sdpa` has to do.
    """
    if shape.attention_alone == "eager":
        return True
    if shape.attention_sinks and attention in ("sdpa", "blocked"):
        return True
    return shape.score_softcap is not None and attention == "sdpa"


def repeats_heads(hardware: HardwareProfile, shape: ModelShape, attention: Attention) -> bool:
    """Whether keys and values are repeated for each head of a group, because a GPU's kernel takes no groups."""
    if attention != "sdpa" or shape.query_size == shape.key_value_size or keeps_scores(attention, shape):
        return False
    return not all(shares_heads(gpu.compute_capability) for gpu in hardware.gpus)


def ladder(*, on_gpu: bool) -> tuple[Attention, ...]:
    """The kernels for a device, fastest first; the last one always works."""
    return GPU_LADDER if on_gpu else CPU_LADDER


def obstacle(
    attention: Attention,
    *,
    capability: Capability | None,
    installed: Collection[str],
    precision: str,
    shape: ModelShape,
) -> str | None:
    """Why `attention` cannot run on a device, to be read after its name; None if nothing is known against it.

    Args:
        capability: of the GPU; None is a CPU.
        installed: names of packages.
        precision: bf16, fp16 or fp32.
    """
    if attention == "sdpa":
        return None
    if attention == "blocked" and capability is not None:
        return "is written for CPUs"
    if attention != "blocked" and capability is None:
        return "needs a GPU"
    return (
        _missing(attention, capability=capability, installed=installed)
        or _score_obstacle(attention, shape)
        or _size_obstacle(attention, shape, precision=precision)
    )


def _missing(attention: Attention, *, capability: Capability | None, installed: Collection[str]) -> str | None:
    """The GPU before the package: nobody should install what the GPU cannot run."""
    if capability is None:
        return None
    if attention == "flash_attention_3" and capability[0] != 9:
        return f"needs compute capability 9.0, this GPU has {_dotted(capability)}"
    if attention == "flash_attention_4" and capability[0] not in (9, 10):
        return f"needs compute capability 9.0 or 10.0, this GPU has {_dotted(capability)}"
    if capability < (8, 0):
        return f"needs compute capability 8.0, this GPU has {_dotted(capability)}"
    package = NEEDED_PACKAGES.get(attention)
    if package is not None and package not in installed:
        return f"needs the package {package}, which is not installed"
    return None


def _score_obstacle(attention: Attention, shape: ModelShape) -> str | None:
    if shape.score_softcap is not None and attention not in CAP_SCORES:
        return "cannot cap scores, which this model needs"
    if shape.attention_sinks and attention not in HAVE_SINKS:
        return "has no attention sinks, which this model needs"
    return None


def _size_obstacle(attention: Attention, shape: ModelShape, *, precision: str) -> str | None:
    if attention in ("flex", "blocked"):
        return None
    if precision == "fp32":
        return "computes in 16 bits only"
    head_size = shape.query_size // shape.heads
    largest = MAX_FLASH_4_HEAD_SIZE if attention == "flash_attention_4" else MAX_FLASH_HEAD_SIZE
    if head_size > largest or head_size % 8:
        return f"takes heads of up to {largest} in steps of 8, this model has {head_size}"
    return None


def _alone(family: str, own: OwnAttention) -> str:
    kept = "which keeps its scores" if own == "eager" else "by PyTorch's attention"
    return f"Rows of the family {family} cannot be packed: each goes through the model alone, {kept}."


def _sentence(attention: Attention, rejected: list[str]) -> str:
    chosen = f"Attention by {NAMES[attention]}"
    return f"{chosen}: {'; '.join(rejected)}." if rejected else f"{chosen}."


def _dotted(capability: Capability) -> str:
    return ".".join(map(str, capability))
