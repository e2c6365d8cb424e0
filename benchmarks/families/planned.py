"""What the planner makes of the same tiny model: how its rows go, and how much an adapter on it learns."""

from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.packing import OwnAttention, require_causal
from tunesmith.tuning.models.shape import ModelShape, is_known
from tunesmith.worker.train.profiling.shape import measure_shape


@dataclass(frozen=True)
class Planned:
    """By what the planner knows a family: its formulas, a measured shape, or not at all, for a `reason`."""

    by: Literal["formulas", "measured", "refused", "unknown"]
    reason: str = ""
    attention: OwnAttention | None = None
    adapter_parameters: int = 0


def planned(config: dict[str, Any], *, rank: int) -> Planned:
    """Of the model that this config describes, with an adapter of `rank` on all linear modules."""
    by: Literal["formulas", "measured"] = "formulas" if is_known(config) else "measured"
    try:
        require_causal(config)
        shape = ModelShape.from_config(config) if by == "formulas" else measure_shape(config)
    except InvalidRequest as refusal:
        return Planned("refused", refusal.message)
    except Exception as error:  # whatever a foreign class raises on the meta device
        return Planned("unknown", f"{type(error).__name__}: {str(error).strip()}"[:160])
    learning = shape.adapter_parameters(rank=rank, targets="all-linear")
    return Planned(by, attention=shape.attention_alone, adapter_parameters=learning)
