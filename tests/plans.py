"""Plans as tests start from them: a small LoRA on a CPU, changed field by field."""

from typing import Any

from tunesmith.tuning.plan import Lora, MemoryEstimate, Plan, TimeEstimate
from tunesmith.tuning.words import Method


def lora(**changes: Any) -> Lora:
    values = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "trainable_parameters": 1}
    return Lora(**{**values, **changes})


def plan(**changes: Any) -> Plan:
    method = Method(changes.get("method", Method.LORA))
    values: dict[str, Any] = {
        "method": method,
        "device": "cpu",
        "precision": "fp32",
        "attention": "blocked",
        "lora": None if method is Method.FULL else lora(),
        "quantization": "nf4" if method is Method.QLORA else None,
        "double_quantization": method is Method.QLORA,
        "activation_checkpointing": "none",
        "optimizer": "adamw",
        "learning_rate": 5e-3,
        "schedule": "linear",
        "warmup_steps": 1,
        "weight_decay": 0.0,
        "max_gradient_norm": 1.0,
        "epochs": 2,
        "rows_per_step": 8,
        "max_sequence_length": 256,
        "tokens_per_micro_step": 256,
        "total_steps": 1000,
        "evaluation_interval_steps": 4,
        "checkpoint_interval_steps": 3,
        "seed": 7,
        "memory": MemoryEstimate(items={}, total_bytes=0, budget_bytes=1),
        "time": TimeEstimate(tokens_per_second=1, seconds=1, seconds_low=1, seconds_high=1),
        "reasons": (),
    }
    return Plan(**{**values, **changes})
