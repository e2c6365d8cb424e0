"""The code that a run spends its time and memory in, by which measurements are kept apart."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Kernels:
    """Settings that decide which code runs, by the names that a plan has them under."""

    attention: str
    activation_checkpointing: str
    optimizer: str
    fused_passes: bool = False
    zero_stage: int = 0
    offload_optimizer: bool = False
    float8_base: bool = False
    packing: bool = True
    sharded_base: bool = False

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any]) -> "Kernels":
        """From the fields of a plan. One that was stored before a field existed ran as its default says."""
        return cls(**{name: plan[name] for name in KERNEL_FIELDS if name in plan})

    @property
    def label(self) -> str:
        """`sdpa/recompute-none/adamw/fused`; what few runs do is named only where it happens."""
        checkpointing = f"recompute-{self.activation_checkpointing}"
        parts = [self.attention, checkpointing, self.optimizer, "fused" if self.fused_passes else "unfused"]
        if self.zero_stage:
            parts.append(f"zero-{self.zero_stage}")
        if self.sharded_base:
            parts.append("sharded-base")
        if self.offload_optimizer:
            parts.append("offload")
        if self.float8_base:
            parts.append("float8")
        if not self.packing:
            parts.append("unpacked")
        return "/".join(parts)


KERNEL_FIELDS = tuple(field.name for field in fields(Kernels))
