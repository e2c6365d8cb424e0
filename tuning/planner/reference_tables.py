"""The guide's two memory tables for any model: bytes by method, and the smallest machine that holds each."""

from typing import NamedTuple

from tunesmith.tuning.estimates.memory import Setup, total
from tunesmith.tuning.hardware_facts.gpus import what_if
from tunesmith.tuning.job import DatasetFacts, JobSpec, LoraOptions
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.words import Method

REFERENCE_TOKENS = 2048  # of one micro-step and of the longest row
REFERENCE_RANK = 16
REFERENCE_ROWS = DatasetFacts(
    rows=10_000,
    tokens=5_000_000,
    longest_row_tokens=REFERENCE_TOKENS,
    supervised_tokens=2_500_000,
    tokens_are_exact=True,
)
# From the smallest to the largest, as people buy and rent them; a run stays within one machine.
MACHINES = (
    "1xRTX3080",
    "1xRTX4080",
    "1xRTX4090",
    "1xRTX5090",
    "1xA100-40G",
    "1xA6000",
    "1xA100-80G",
    "1xH200",
    "2xA100-80G",
    "4xA100-80G",
    "8xA100-80G",
    "8xH200",
    "8xB200",
)


class SmallestMachine(NamedTuple):
    """A machine and the plan that fits on it."""

    machine: str
    plan: Plan


def training_memory(shape: ModelShape, method: Method) -> int:
    """Predicted peak on one GPU with full recomputation, 2,048 tokens a micro-step and, for adapters, rank 16."""
    setup = Setup(
        method=method,
        device="cuda",
        precision="bf16",
        tokens_per_micro_step=min(REFERENCE_TOKENS, shape.context_length),
        checkpointing="full",
        rank=REFERENCE_RANK,
        double_quantization=True,
        fused_passes=True,
    )
    return total(shape, setup)


def smallest_machine(
    shape: ModelShape, method: Method, *, dataset: DatasetFacts = REFERENCE_ROWS, spec: JobSpec | None = None
) -> SmallestMachine | None:
    """The first of `MACHINES` that holds the job without moving the optimizer to host memory; None when none does."""
    length = min(REFERENCE_TOKENS, shape.context_length)
    lora = LoraOptions(rank=REFERENCE_RANK)
    asked = spec or JobSpec(model="what-if", seed=0, max_seq_length=length, lora=lora)
    asked = asked.model_copy(update={"method": method})
    for machine in MACHINES:
        plan = choose(spec=asked, shape=shape, dataset=dataset, hardware=what_if(machine))
        if isinstance(plan, Plan) and not plan.offload_optimizer:
            return SmallestMachine(machine, plan)
    return None
