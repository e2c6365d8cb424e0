"""The configurations compared, and the plan of one run: the planner's own, with method, rank and epochs fixed.

Learning rate, alpha, schedule, warm-up, clipping and weight decay are left to the recipe rules, as a user would.
"""

from dataclasses import dataclass
from pathlib import Path

from tunesmith.tuning.job import DatasetFacts, JobSpec, LoraOptions
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.words import Method
from tunesmith.worker.machine.probe import probe


@dataclass(frozen=True)
class Configuration:
    """`rank` is None for full fine-tuning; `alpha` is None where the recipe rules choose it."""

    name: str
    method: Method
    rank: int | None
    alpha: float | None = None


# The untrained model, as it is and held in 4-bit.
BASES = {"base": False, "base-nf4": True}

# In the order of quality that the guide claims. The last follows its rule alpha = 2r: at one learning rate the first
# steps of an adapter move the weights in proportion to its alpha, whatever the rank.
CONFIGURATIONS = (
    Configuration("full", Method.FULL, None),
    Configuration("lora-r64", Method.LORA, 64),
    Configuration("lora-r16", Method.LORA, 16),
    Configuration("qlora-r16", Method.QLORA, 16),
    Configuration("lora-r4", Method.LORA, 4),
    Configuration("lora-r4-alpha8", Method.LORA, 4, alpha=8.0),
)


def by_name(name: str) -> Configuration:
    """Raises KeyError for an unknown name."""
    return {configuration.name: configuration for configuration in CONFIGURATIONS}[name]


def spec_of(configuration: Configuration, *, epochs: int, rows_per_step: int, seed: int) -> JobSpec:
    """The job a user would submit for this configuration."""
    return JobSpec(
        model="SmolLM2-135M-Instruct",
        method=configuration.method,
        lora=LoraOptions(rank=configuration.rank or "auto", alpha=configuration.alpha or "auto"),
        hyperparameters={"n_epochs": epochs, "batch_size": rows_per_step},  # type: ignore[arg-type]
        seed=seed,
    )


def plan_of(spec: JobSpec, *, shape: ModelShape, dataset: DatasetFacts, disk: Path) -> Plan:
    """The plan for this machine; one checkpoint, at the end.

    Raises:
        SystemExit: the planner refuses, with its reasons.
    """
    plan = choose(spec=spec, shape=shape, dataset=dataset, hardware=probe(disk=disk))
    if isinstance(plan, Refusal):
        raise SystemExit("\n".join(reason.text for reason in plan.reasons))
    return plan.model_copy(update={"checkpoint_interval_steps": plan.total_steps})


def trainable_parameters(plan: Plan, shape: ModelShape) -> int:
    """Entries that learn."""
    return plan.lora.trainable_parameters if plan.lora else shape.parameters
