"""One way to run a job with everything about it: what rules compare and plans are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tunesmith.tuning.corrections import Ratios
from tunesmith.tuning.estimates.margins import MOST_FILLED, probability_of_running_out, usable_share
from tunesmith.tuning.estimates.memory import Setup, estimate
from tunesmith.tuning.estimates.sharded_base import explain
from tunesmith.tuning.plan import Attention, Lora, MemoryEstimate, PlanRule, Reason, TimeEstimate
from tunesmith.tuning.recipe.hyperparameters import Batch
from tunesmith.tuning.search.layouts import Place
from tunesmith.tuning.search.pricing import Priced, Pricer
from tunesmith.tuning.words import Goal, Method

EVEN_ENOUGH = 0.95


@dataclass(frozen=True)
class Candidate:
    """One way to run the job. When `fits` is false it is the smallest way, and `blocked` may say why none exists.

    Whether it fits follows from its price. The estimates with their items and ranges, and the reasons, are made when
    they are asked for: of most candidates nobody does.
    """

    priced: Priced
    pricer: Pricer
    blocked: str | None = None
    may_fill: float = MOST_FILLED  # of what is free

    @property
    def fits(self) -> bool:
        """Whether this can be run here, if need be without its margin."""
        return self.blocked is None and self.peak_bytes <= self.budget_bytes * self.may_fill

    @property
    def has_margin(self) -> bool:
        """Whether it fits although its peak is only a prediction."""
        return self.fits and self.peak_bytes <= self.budget_bytes * usable_share(self.margin)

    @property
    def peak_bytes(self) -> int:
        """Predicted on one device."""
        return self.priced.peak_bytes

    @property
    def budget_bytes(self) -> int:
        """Free on the poorest device."""
        return self.priced.layout.budget_bytes

    @property
    def margin_bytes(self) -> int:
        """Wanted beyond the peak."""
        return int(self.peak_bytes * self.margin)

    @property
    def margin(self) -> float:
        """What is wanted beyond the peak, as a share of it."""
        return self.pricer.margin

    @property
    def method(self) -> Method:
        """What it does to the weights."""
        return self.pricer.method

    @property
    def place(self) -> Place:
        """Where it runs."""
        return self.priced.layout.place

    @property
    def batch(self) -> Batch:
        """How it walks through the data."""
        return self.pricer.batch

    @property
    def lora(self) -> Lora:
        """The adapter's numbers; of full fine-tuning those that it would have."""
        return self.pricer.lora

    @property
    def max_sequence_length(self) -> int:
        """To which rows are cut."""
        return self.pricer.max_sequence_length

    @property
    def attention(self) -> Attention:
        """The kernel that it attends by."""
        return self.place.attention

    @cached_property
    def setup(self) -> Setup:
        """All launch numbers."""
        return self.priced.setup

    @cached_property
    def memory(self) -> MemoryEstimate:
        """Its peak, itemised, with the margin and the risk."""
        priced = self.priced
        memory = estimate(self.pricer.shape, self.setup, budget_bytes=self.budget_bytes)
        update: dict[str, Any] = {
            "margin_bytes": self.margin_bytes,
            "out_of_memory_probability": risk_of(priced, spread=self.pricer.spread),
        }
        if extra := priced.peak_bytes - memory.total_bytes:
            update |= {"items": memory.items | {"measured_correction": extra}, "total_bytes": priced.peak_bytes}
        return memory.model_copy(update=update)

    @cached_property
    def time(self) -> TimeEstimate:
        """Its speed and duration, with what measurements changed about them."""
        time, ratios = self.pricer.time(self.priced), self._ratios
        if ratios.speed is None:
            return time
        return time.model_copy(update={"measured_correction": ratios.speed} | _range(time, ratios.speed_spread))

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """For the recipe and the layout."""
        return (
            *self.pricer.reasons,
            self.place.attention_reason,
            *explain(self.pricer.shape, self.setup),
            *self._balance(),
        )

    @property
    def correction_basis(self) -> str:
        """Which measurements its predictions rest on."""
        return self._ratios.basis

    @property
    def device_seconds(self) -> float:
        """Of all devices."""
        return self.time.seconds * self.priced.layout.world_size

    def expense(self, goal: Goal) -> float:
        """What the goal compares: time from start to end, or that of all devices, both without sample answers."""
        return self.time.working_seconds * (self.priced.layout.world_size if goal is Goal.COST else 1)

    @property
    def _ratios(self) -> Ratios:
        return self.pricer.ratios(self.priced.layout, self.priced.checkpointing)

    def _balance(self) -> Iterator[Reason]:
        """Said where devices wait for one another for more than a few per cent of a step."""
        layout = self.priced.layout
        evenness = self.pricer.evenness(layout)
        if evenness > EVEN_ENOUGH:
            return
        text = (
            f"{layout.world_size} GPUs that share out {self.batch.rows_per_step} rows a step of such lengths "
            f"work {evenness:.0%} of the time; more rows a step would come out more evenly."
        )
        yield Reason(rule=PlanRule.BALANCE, text=text)


def risk_of(priced: Priced, *, spread: float) -> float:
    """The probability that it needs more memory than is free, where peaks scatter so much."""
    return probability_of_running_out(priced.peak_bytes, free_bytes=priced.layout.budget_bytes, spread=spread)


def _range(time: TimeEstimate, spread: float | None) -> dict[str, float]:
    """As wide as what was measured scatters."""
    if spread is None:
        return {}
    return {"seconds_low": time.seconds / (1 + spread), "seconds_high": time.seconds * (1 + 1.6 * spread)}
