"""Shapes, data and machines that the planner's tests share."""

from typing import Any

from tunesmith.tuning.hardware import Cpu, HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import EVERYTHING_INSTALLED, what_if
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.planner.choose import choose
from tunesmith.tuning.values.units import GIB

TINY = ModelShape.from_config(
    {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 512,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
)


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate({"model": "base", "seed": 1} | changes)


def data(rows: int = 2_000, *, tokens_per_row: int = 400, longest: int = 1500, supervised: float = 0.5) -> DatasetFacts:
    tokens = rows * tokens_per_row
    return DatasetFacts(
        rows=rows,
        tokens=tokens,
        longest_row_tokens=max(longest, tokens_per_row),
        supervised_tokens=max(1, int(tokens * supervised)),
        tokens_are_exact=True,
    )


def cpu(cores: int = 2, *, free_gib: float = 18, bf16: bool = True) -> HardwareProfile:
    return HardwareProfile(
        cpu=Cpu(
            model="a CPU",
            cores=cores,
            memory_total_bytes=24 * GIB,
            memory_free_bytes=int(free_gib * GIB),
            bf16=bf16,
        ),
        installed=EVERYTHING_INSTALLED,
    )


def answer(model: str | ModelShape, machine: str | HardwareProfile, **changes: Any) -> Plan | Refusal:
    dataset = changes.pop("dataset", None) or data()
    return choose(
        spec=spec(**changes),
        shape=find_shape(model) if isinstance(model, str) else model,
        dataset=dataset,
        hardware=what_if(machine) if isinstance(machine, str) else machine,
    )


def plan(model: str | ModelShape, machine: str | HardwareProfile, **changes: Any) -> Plan:
    result = answer(model, machine, **changes)
    assert isinstance(result, Plan), result
    return result


def rules(result: Plan | Refusal) -> list[str]:
    return [reason.rule for reason in result.reasons]
