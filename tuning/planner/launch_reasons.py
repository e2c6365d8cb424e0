"""A reason for each launch number: how many GPUs, what they share out, what is recomputed, micro-step and optimizer."""

from collections.abc import Iterator

from tunesmith.tuning.models.families import OVERFLOWING_FP16
from tunesmith.tuning.plan import PlanRule, Reason
from tunesmith.tuning.search.candidate import Candidate
from tunesmith.tuning.search.candidates import LEAST_RECOMPUTATION_FIRST, Search
from tunesmith.tuning.search.layouts import Layout
from tunesmith.tuning.search.pricing import Priced
from tunesmith.tuning.values.units import duration, gib, instead_of, plural
from tunesmith.tuning.words import Goal, Method

MODES = {
    "none": "Nothing is recomputed",
    "selective": "Norms and gates are recomputed",
    "mlp": "MLPs are recomputed but for their last product",
    "full": "Every layer is recomputed",
}
NO_MARGIN = "no setting keeps its margin, and this one fills least of the memory"


def explain_launch(candidate: Candidate, search: Search) -> Iterator[Reason]:
    """In the order in which a reader wonders."""
    here = _Here(candidate, search)
    yield from here.precision()
    if candidate.place.hardware.gpus:
        yield from here.devices()
        yield from here.sharing()
    if candidate.method is Method.FULL:
        yield here.optimizer()
    yield here.recomputation()
    yield here.micro_step()


class _Here:
    """The chosen settings among those that lost to them."""

    def __init__(self, candidate: Candidate, search: Search) -> None:
        self.candidate, self.search, self.setup = candidate, search, candidate.setup
        self.layout = next(layout for layout in search.layouts if _is_of(layout, candidate))

    def precision(self) -> Iterator[Reason]:
        """That a family is known to overflow, where there is nothing but fp16 to compute in quickly."""
        family, name = self.search.pricer.shape.family, self.candidate.place.name
        if self.setup.precision == "fp16" and family.startswith(OVERFLOWING_FP16):
            text = (
                f"A {name} computes in fp16, where {family} is known to overflow: others train it in bf16 or fp32 "
                f"alone. If the loss is no number, take a GPU of compute capability 8.0 or higher."
            )
            yield Reason(rule=PlanRule.PRECISION, text=text)

    def devices(self) -> Iterator[Reason]:
        """Why so many GPUs and not more or fewer."""
        there, used = len(self.candidate.place.hardware.gpus), self.setup.world_size
        if there == 1:
            return
        these = "of these GPUs" if there < len(self.search.hardware.gpus) else "GPUs"
        every = f"Both {these}" if there == 2 else f"All {there} {these}"
        text = every if used == there else f"{used} of {there} GPUs, because {self._why_fewer(there)}"
        if used > 1:
            text += f"; {self._with_half(used // 2)}"
        yield Reason(rule=PlanRule.GPUS, text=f"{text}.")

    def sharing(self) -> Iterator[Reason]:
        """What ZeRO shares out, and what the next stage down would need."""
        stage = self.setup.zero_stage
        if self.setup.world_size == 1 and not self.setup.offload_optimizer:
            return
        if self.setup.offload_optimizer:
            text = "The optimizer lives in host memory, which is slow: no other layout fits"
            yield Reason(rule=PlanRule.OFFLOAD, text=f"{text}.")
            return
        if self.setup.sharded_base:
            whole = next(layout for layout in self._others(self.setup.world_size) if not layout.sharded_base)
            yield Reason(rule=PlanRule.ZERO, text=f"The 4-bit weights are shared out: {self._against(whole)}.")
            return
        if stage == 0:
            text = "Each GPU holds a whole copy of the model: it fits, so nothing is gathered"
            yield Reason(rule=PlanRule.ZERO, text=f"{text}{self._in_parts()}.")
            return
        shared = {1: "the optimizer", 2: "the optimizer and gradients", 3: "weights, gradients and the optimizer"}
        text = f"ZeRO stage {stage} shares out {shared[stage]}"
        lower = [layout for layout in self._others(self.setup.world_size) if layout.zero_stage < stage]
        if lower:
            text += f"; {self._against(max(lower, key=lambda layout: layout.zero_stage))}"
        yield Reason(rule=PlanRule.ZERO, text=f"{text}.")

    def optimizer(self) -> Reason:
        """32-bit moments, or why 8-bit ones."""
        if self.setup.optimizer == "adamw":
            return Reason(rule=PlanRule.OPTIMIZER, text="AdamW with exact moments of 32 bits, which fit.")
        exact = [layout for layout in self.search.layouts if layout.optimizer == "adamw"]
        best = [found for layout in exact if (found := self.search.quickest_of(layout)) is not None]
        if best:
            soonest = min(best, key=lambda found: found.working_seconds)
            why = f"exact ones of 32 bits take {self._instead(soonest)}"
        else:
            why = "exact ones of 32 bits do not fit"
        return Reason(rule=PlanRule.OPTIMIZER, text=f"AdamW with moments of 8 bits, because {why}.")

    def recomputation(self) -> Reason:
        """As little as fits with the micro-step that finishes soonest."""
        mode = self.setup.checkpointing
        place = LEAST_RECOMPUTATION_FIRST.index(mode)
        if place == 0:
            return Reason(rule=PlanRule.RECOMPUTATION, text="Nothing is recomputed: all activations fit.")
        less = LEAST_RECOMPUTATION_FIRST[place - 1]
        tokens = self.setup.tokens_per_micro_step
        peak = self.search.pricer.peak_bytes(self.layout, less, tokens)
        if not self.candidate.has_margin:
            why = f": {NO_MARGIN}"
        elif peak > self.layout.budget_bytes * self.search.usable:
            why = f": to recompute less beside such micro-steps would need {gib(peak)}{self._of_usable(peak)}"
        else:
            why = ", which measurements here found the quickest"
        return Reason(rule=PlanRule.RECOMPUTATION, text=f"{MODES[mode]} in the backward pass{why}.")

    def micro_step(self) -> Reason:
        """The largest that fits, or that a step can fill."""
        tokens, sizes = self.setup.tokens_per_micro_step, self.search.sizes(self.layout)
        text = f"Micro-steps of up to {tokens:,} tokens"
        if not self.setup.packing:
            return Reason(rule=PlanRule.MICRO_STEP, text=f"{text}: one row each, which this family cannot pack.")
        place = sizes.index(tokens)
        if place == 0:
            step = "has" if self.setup.world_size == 1 else "gives one GPU"
            of_a_row = "the longest row has as many, and " if tokens == self.candidate.max_sequence_length else ""
            is_filled = tokens < self._share_of_step
            why = f"{of_a_row}more would be hardly quicker" if is_filled else f"an optimizer step {step} no more"
            return Reason(rule=PlanRule.MICRO_STEP, text=f"{text}: {why}.")
        larger = self.search.pricer.peak_bytes(self.layout, self.setup.checkpointing, sizes[place - 1])
        if not self.candidate.has_margin:
            why = NO_MARGIN
        elif larger > self.layout.budget_bytes * self.search.usable:
            why = f"{sizes[place - 1]:,} would need {gib(larger)}{self._of_usable(larger)}"
        else:
            why = "more would not be quicker"
        return Reason(rule=PlanRule.MICRO_STEP, text=f"{text}: {why}.")

    def _instead(self, other: Priced) -> str:
        """The durations that are told elsewhere, or, where they are the other way round, those that were compared."""
        own = self.candidate.time
        if (other.seconds < own.seconds) == (other.working_seconds < own.working_seconds):
            return instead_of(other.seconds, own.seconds)
        return f"{instead_of(other.working_seconds, own.working_seconds)} without sample answers"

    @property
    def _share_of_step(self) -> float:
        workload = self.search.pricer.workload
        return workload.mean_row_tokens * workload.rows_per_step / self.setup.world_size

    def _of_usable(self, peak_bytes: int) -> str:
        free, usable = self.layout.budget_bytes, int(self.layout.budget_bytes * self.search.usable)
        hardly = "a little " if gib(peak_bytes) == gib(usable) else ""
        return f", {hardly}more than the {gib(usable)} that a margin leaves of {gib(free)}"

    def _with_half(self, number: int) -> str:
        subject = "one alone" if number == 1 else f"{number} of them"
        fewer = self._best_with(number)
        if fewer is None and not self.candidate.has_margin:
            return f"{subject} would fill no less of {'its' if number == 1 else 'their'} memory"
        if fewer is None:
            return f"the job does not fit on {subject} with a margin"
        moments = " with moments of 8 bits" if fewer.layout.optimizer != self.layout.optimizer else ""
        return f"{subject}{moments} would take {self._instead(fewer)}"

    def _why_fewer(self, there: int) -> str:
        used, batch = self.setup.world_size, self.candidate.batch
        if used == batch.rows_per_step:
            return f"a step has {plural(used, 'row')} to share out"
        if self.search.pricer.spec.goal is Goal.COST:
            return "goal cost takes the least GPU time"
        poorest = min(gpu.memory_free_bytes for gpu in self.candidate.place.hardware.gpus)
        if poorest < self.layout.budget_bytes:
            return f"on another {gib(poorest)} are free"
        best = self._best_with(there)
        if best is None:
            return "the rest would only wait"
        gathering = best.layout.gathers_weights and not self.layout.gathers_weights
        in_parts = ", with the weights shared out, which is not worth it" if gathering else ""
        return f"{there} would take {self._instead(best)}{in_parts}"

    def _in_parts(self) -> str:
        """What sharing the weights out would save, where that was not taken although it is sooner."""
        quickest = self.search.quickest
        if quickest is None or not quickest.layout.gathers_weights or self.layout.gathers_weights:
            return ""
        return f"; to share it out would take {self._instead(quickest)}, which is not worth it"

    def _best_with(self, world_size: int) -> Priced | None:
        found = [self.search.quickest_of(layout) for layout in self._others(world_size)]
        return min(
            (priced for priced in found if priced is not None), key=lambda priced: priced.working_seconds, default=None
        )

    def _others(self, world_size: int) -> list[Layout]:
        return [
            layout
            for layout in self.search.layouts
            if layout.place is self.layout.place and layout.world_size == world_size and not layout.offload_optimizer
        ]

    def _against(self, other: Layout) -> str:
        found = self.search.quickest_of(other)
        stage = other.zero_stage
        name = "a whole copy on each GPU" if stage == 0 else f"stage {stage}"
        if found is None:
            peak = self.search.least_peak(other)
            return f"{name} would need {gib(peak)}{self._of_usable(peak)}"
        text = f"{name} would take {self._instead(found)}"
        if duration(found.seconds) != duration(self.candidate.time.seconds):
            return text
        return f"{text}, and need {gib(found.peak_bytes)} instead of {gib(self.candidate.memory.total_bytes)}"


def _is_of(layout: Layout, candidate: Candidate) -> bool:
    setup = candidate.setup
    return layout.place is candidate.place and layout.setup(setup.checkpointing, setup.tokens_per_micro_step) == setup
