"""A frozen 4-bit base shared out over several GPUs, as the trainer does it: where it may be, what it costs, in words.

Every process keeps its part of each layer and gathers a layer's bytes before its forward and its backward pass, the
next layer's while one is at work. The two layers at the turn from forward to backward are at hand.
"""

from tunesmith.tuning.estimates.memory import (
    Footprint,
    Setup,
    Spread,
    footprint_of,
    quantized_bytes,
    weight_bytes,
)
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.models.linears import adapts_experts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import PlanRule, Reason
from tunesmith.tuning.values.units import gib
from tunesmith.tuning.words import Method


def may_be_shared(method: Method, spec: JobSpec, hardware: HardwareProfile) -> bool:
    """Whether the trainer can run the job that way on several GPUs.

    Merging writes the whole base, DoRA starts from whole rows, and adapters on experts multiply with all of them.
    """
    needs_whole_base = spec.merge or spec.lora.use_dora or adapts_experts(spec.lora.target_modules)
    return method is Method.QLORA and bool(hardware.gpus) and not needs_whole_base


def gathered_bytes(footprint: Footprint, spread: Spread) -> int:
    """What one process receives in one micro-step, forward and backward."""
    if not spread.sharded_base:
        return 0
    layers = footprint.layers
    twice = 2 * layers - min(2, layers)
    of_others = (spread.world_size - 1) / spread.world_size
    return int(footprint.quantized / layers * twice * of_others)


def with_gathers(seconds: float, *, moving_seconds: float, layers: int) -> float:
    """A micro-step of so many `seconds` of work with gathers behind it: the longer of both, and the first layer's."""
    return max(seconds, moving_seconds) + moving_seconds / (2 * layers)


def explain(shape: ModelShape, setup: Setup) -> tuple[Reason, ...]:
    """Why and how, of a setup that shares the base out."""
    if not setup.sharded_base:
        return ()
    whole, gathered = quantized_bytes(shape, setup), gathered_bytes(footprint_of(shape, setup), setup)
    text = (
        f"The 4-bit weights are shared out over {setup.world_size} GPUs, as FSDP does: each keeps "
        f"{gib(whole // setup.world_size)} of {gib(whole)} and gathers one layer ahead, "
        f"{gib(gathered)} over its link in every micro-step. No GPU has measured this yet."
    )
    return (Reason(rule=PlanRule.SHARDED_BASE, text=text),)


def explain_shortage(shape: ModelShape, setup: Setup) -> tuple[Reason, ...]:
    """What fills a GPU although the base is shared out, and what those do differently who run it on as little."""
    if not setup.sharded_base:
        return ()
    shared = quantized_bytes(shape, setup)
    whole = weight_bytes(shape, setup) - shared
    has_experts = any(linear.role == "expert" for linear in shape.linears)
    others = "experts, embeddings, head and norms" if has_experts else "embeddings, head and norms"
    text = (
        f"Each of the {setup.world_size} GPUs holds {gib(shared // setup.world_size)} of 4-bit layers, its share, and "
        f"{gib(whole)} of {others} whole in 16 bits. Published runs on less share those out too and "
        f"keep the shares in host memory (FSDP with fsdp_offload_params, an example of Axolotl's): neither is built "
        f"here."
    )
    return (Reason(rule=PlanRule.SHARDED_BASE, text=text),)
