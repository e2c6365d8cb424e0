"""A plan that was decided once and is to run again exactly as it stands: whether this hardware can."""

from collections.abc import Iterator

from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.devices import most_free_memory
from tunesmith.tuning.plan import Plan, PlanRule, Reason, Refusal
from tunesmith.tuning.search.layouts import CPU_USABLE_SHARE
from tunesmith.tuning.values.units import gib

# What a plan needs installed, by the value that needs it.
_PACKAGES = {
    "nf4": "bitsandbytes",
    "adamw_8bit": "bitsandbytes",
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_3",
    "flash_attention_4": "flash_attn_4",
}
# What a trainer does not act on: plans that differ only here train the same.
EXPLANATION = frozenset({"memory", "time", "reasons", "alternatives", "ways", "changes"})


def replay(plan: Plan, *, hardware: HardwareProfile) -> Plan | Refusal:
    """The same plan, or every reason why this hardware cannot run it unchanged."""
    reasons = tuple(Reason(rule=PlanRule.PINNED_PLAN, text=text) for text in _obstacles(plan, hardware))
    return Refusal(reasons=reasons) if reasons else plan


def is_same_training(first: Plan, second: Plan) -> bool:
    """Whether two plans tell the trainer the same."""
    return first.model_dump(exclude=set(EXPLANATION)) == second.model_dump(exclude=set(EXPLANATION))


def _obstacles(plan: Plan, hardware: HardwareProfile) -> Iterator[str]:
    if plan.device != hardware.device:
        yield f"The plan trains on {plan.device}, this worker on {hardware.device}."
        return
    if plan.device == "cuda" and len(hardware.gpus) < plan.world_size:
        yield f"The plan needs {plan.world_size} GPUs, this worker has {len(hardware.gpus)}."
        return
    if plan.precision == "bf16" and not all(gpu.bf16 for gpu in hardware.gpus):
        yield "The plan trains in bf16, which this worker's GPU has no matmuls for."
    if plan.float8_base and not all(gpu.float8 for gpu in hardware.gpus):
        yield "The plan multiplies in 8 bits, which takes compute capability 8.9."
    for package in sorted(_needed_packages(plan) - set(hardware.installed)):
        yield f"The plan needs {package}, which is not installed on this worker."
    free = _free_bytes(plan, hardware)
    if plan.memory.total_bytes > free:
        yield f"The plan needs {gib(plan.memory.total_bytes)}, {gib(free)} are free."


def _needed_packages(plan: Plan) -> set[str]:
    values = (plan.quantization, plan.optimizer, plan.attention)
    needed = {_PACKAGES[value] for value in values if value in _PACKAGES}
    return needed | ({"deepspeed"} if plan.zero_stage or plan.offload_optimizer else set())


def _free_bytes(plan: Plan, hardware: HardwareProfile) -> int:
    """Free on the poorest of the devices that the plan would use."""
    if not hardware.gpus:
        return int(hardware.cpu.memory_free_bytes * CPU_USABLE_SHARE)
    return most_free_memory(hardware.gpus, plan.world_size)[-1].memory_free_bytes
