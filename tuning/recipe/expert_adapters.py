"""Adapters on the experts of a mixture: when the trainer has them, and the sentence for everything that forbids them.

`transformers` 5 keeps a layer's experts in two bare parameters [experts, ..., ...]. An adapter of its own for every
expert is what PEFT's `target_parameters` gives, without dropout, DoRA and PiSSA, and without shared-out weights.
"""

from typing import NamedTuple

from tunesmith.tuning.job import LoraOptions
from tunesmith.tuning.models.linears import Targets, adapts_experts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Lora, PlanRule, Reason

PRESET = "all-linear+experts"


class Obstacle(NamedTuple):
    """Why experts cannot learn as asked, and what to do about it."""

    param: str
    text: str
    hint: str


def obstacle(lora: LoraOptions | Lora, *, has_experts: bool) -> Obstacle | None:
    """What stands in the way of adapters on experts where they are asked for; `has_experts` that adapters can go on."""
    if not adapts_experts(lora.target_modules):
        return None
    if not has_experts:
        text = "This model has no experts that an adapter can go on."
        return Obstacle("target_modules", text, "Use target_modules 'all-linear', which covers its linear modules.")
    for name, asked, what in (
        ("dropout", lora.dropout > 0, "dropout"),
        ("use_dora", lora.use_dora, "DoRA"),
        ("init", lora.init == "pissa", "PiSSA"),
    ):
        if asked:
            text = f"Adapters on experts do not go with {what}."
            return Obstacle(name, text, f"Leave {name} at its default, or use target_modules 'all-linear'.")
    return None


def have_experts(shape: ModelShape) -> bool:
    """Whether there are experts that an adapter can go on."""
    return any(linear.role == "expert" and linear.adaptable for linear in shape.linears)


def say_experts_stay_whole(shape: ModelShape) -> tuple[Reason, ...]:
    """Why QLoRA saves a mixture of experts little."""
    experts = sum(linear.weights for linear in shape.linears if linear.role == "expert")
    if not experts:
        return ()
    share = experts / shape.parameters
    text = (
        f"4 bits do not reach the experts, {share:.0%} of all parameters: QLoRA keeps them in 16 bits and saves little."
    )
    return (Reason(rule=PlanRule.EXPERTS, text=text),)


def shared_out(targets: Targets) -> Obstacle | None:
    """What stands in the way of sharing weights out over processes."""
    if not adapts_experts(targets):
        return None
    return Obstacle(
        "target_modules",
        "Adapters on experts need the experts whole on every device, and this plan shares the base out.",
        "Use target_modules 'all-linear', or GPUs that hold the base each.",
    )
