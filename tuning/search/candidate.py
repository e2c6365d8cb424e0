"""One way to run a job with everything about it: what rules compare and plans are made of."""

from dataclasses import dataclass

from tunesmith.tuning.estimates.margins import MOST_FILLED, usable_share
from tunesmith.tuning.estimates.memory import Setup
from tunesmith.tuning.plan import Attention, Lora, MemoryEstimate, Reason, TimeEstimate
from tunesmith.tuning.recipe.hyperparameters import Batch
from tunesmith.tuning.search.layouts import Place
from tunesmith.tuning.words import Goal, Method


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the job. When `fits` is false it is the smallest way, and `blocked` may say why none exists."""

    method: Method
    setup: Setup
    place: Place
    batch: Batch
    lora: Lora
    max_sequence_length: int
    memory: MemoryEstimate
    time: TimeEstimate
    reasons: tuple[Reason, ...]
    correction_basis: str = ""
    blocked: str | None = None
    may_fill: float = MOST_FILLED  # of what is free
    margin: float = 0.0  # what is wanted beyond the peak, as a share of it

    @property
    def fits(self) -> bool:
        """Whether this can be run here, if need be without its margin."""
        return self.blocked is None and self.memory.total_bytes <= self.memory.budget_bytes * self.may_fill

    @property
    def has_margin(self) -> bool:
        """Whether it fits although its peak is only a prediction."""
        return self.fits and self.memory.total_bytes <= self.memory.budget_bytes * usable_share(self.margin)

    @property
    def attention(self) -> Attention:
        """The kernel that it attends by."""
        return self.place.attention

    @property
    def device_seconds(self) -> float:
        """Of all devices together."""
        return self.time.seconds * self.setup.world_size

    def expense(self, goal: Goal) -> float:
        """What the goal compares: time from start to end, or that of all devices, both without sample answers."""
        return self.time.working_seconds * (self.setup.world_size if goal is Goal.COST else 1)
