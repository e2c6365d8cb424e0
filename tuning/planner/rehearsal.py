"""Whether a run must rehearse: what an equal run on the same worker showed may answer what a canary would ask.

A canary asks two things: whether the largest micro-step fits, and how fast it is. A finished run under the same
settings has answered both. Its answer on memory holds for a micro-step that is no larger, and as a bound for one that
is a little larger: nothing in a step grows faster than the square of its tokens or of its longest row.
"""

from tunesmith.tuning.estimates.measured import visible_peak_bytes
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.values.base import Value
from tunesmith.tuning.values.units import gib

LARGEST_GROWTH = 1.25  # of tokens, or of the longest row: further off the bound says too little
# All of a plan that decides what a micro-step does to memory and processors, but for its size.
_SETTINGS = (
    "method",
    "objective",
    "device",
    "world_size",
    "precision",
    "attention",
    "packing",
    "quantization",
    "double_quantization",
    "lora",
    "activation_checkpointing",
    "optimizer",
    "fused_passes",
    "zero_stage",
    "offload_optimizer",
    "sharded_base",
)


class Rehearsal(Value):
    """What a finished run needed, and the largest of its micro-steps."""

    tokens: int
    longest_row_tokens: int
    peak_memory_bytes: int
    packs: bool = False  # its trial found that rows may go through the model together


class Judgement(Value):
    """Whether an earlier run's word is enough, and why."""

    stands: bool
    reason: str


def settings_of(plan: Plan) -> str:
    """Equal for two plans whose micro-steps of one size need the same memory."""
    return plan.model_dump_json(include=set(_SETTINGS))


def assess(earlier: Rehearsal, plan: Plan, *, tokens: int, longest_row_tokens: int) -> Judgement:
    """Judge a run whose largest micro-step has so many tokens. `earlier` ran under the same settings."""
    growth = max(1.0, tokens / earlier.tokens, longest_row_tokens / earlier.longest_row_tokens)
    if growth > LARGEST_GROWTH:
        return Judgement(stands=False, reason=f"its micro-steps are {growth:.2f} times those of the last equal run")
    bound = int(earlier.peak_memory_bytes * growth**2)
    unseen = plan.memory.total_bytes - visible_peak_bytes(plan.memory, device=plan.device)
    needed, free = bound + unseen, plan.memory.budget_bytes
    if needed > free:
        return Judgement(stands=False, reason=f"it may need {gib(needed)} and {gib(free)} are free")
    return Judgement(
        stands=True,
        reason=f"an equal run on this worker needed {gib(earlier.peak_memory_bytes)} for {earlier.tokens:,} tokens "
        f"at once; this one has at most {tokens:,}, and {gib(free)} are free",
    )
