"""What a run costs where the operator has said what an hour costs."""

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.tuning.plan import Plan


@dataclass(frozen=True)
class Prices:
    """Money for an hour of one GPU, or of a CPU worker, by worker class or imagined machine; `*` for all others."""

    by_class: Mapping[str, float]

    def cost(self, plan: Plan, *, worker_class: str) -> float | None:
        """The money for the predicted time, or None where no price is known."""
        price = self.by_class.get(worker_class, self.by_class.get("*"))
        return None if price is None else round(gpu_hours(plan) * price, 4)


def gpu_hours(plan: Plan) -> float:
    """The predicted time on all devices that the plan uses, one to a process."""
    return plan.time.seconds * plan.world_size / 3600
