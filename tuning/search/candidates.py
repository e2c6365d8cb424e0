"""For one method: of all launch settings that fit a machine the one that serves the goal, and the ends of what it can.

Every layout is priced, unless a bound below its duration already says that it cannot win; there are two, the second
closer and dearer to find. Nothing is taken because it comes first, so more memory and more GPUs, which only add
settings, make no plan slower.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property
from operator import itemgetter

from tunesmith.tuning.estimates.activations import Checkpointing
from tunesmith.tuning.estimates.margins import MOST_FILLED, riskless_share, usable_share
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.plan import Way
from tunesmith.tuning.search.candidate import Candidate, risk_of
from tunesmith.tuning.search.layouts import (
    Kind,
    Layout,
    LayoutKey,
    kinds_of,
    layouts,
    place_of,
)
from tunesmith.tuning.search.pricing import Priced, Pricer
from tunesmith.tuning.values.units import duration
from tunesmith.tuning.words import Goal, Method

LEAST_RECOMPUTATION_FIRST: tuple[Checkpointing, ...] = ("none", "selective", "mlp", "full")
# Moments of 8 bits are rounded: those of 32 bits are worth so much more time, unless speed or cost is the goal.
PRICE_OF_EXACT_MOMENTS = 1.1
# So are whole copies of a frozen base on each GPU: nothing is gathered, which no GPU has measured yet, answers are
# sampled meanwhile, and every option of a job goes with it.
PRICE_OF_WHOLE_COPIES = 1.1
LONGEST_RUN_SECONDS = 365 * 86400  # who plans for longer has mistyped something


Expense = Callable[[float, int], float]  # of so many seconds on so many devices
Rank = tuple[float, bool, int, int, int]


class Search:
    """All settings of one method on one machine."""

    def __init__(self, pricer: Pricer, hardware: HardwareProfile, *, kinds: tuple[Kind, ...] | None = None) -> None:
        """`kinds` are those of the machine, where another method has found them already."""
        self.pricer, self.hardware = pricer, hardware
        self.forced = pricer.spec.method == pricer.method
        own = kinds_of(hardware, pricer.shape) if kinds is None else kinds
        self.places = tuple(place_of(kind, pricer.basis_of(kind), spec=pricer.spec) for kind in own)
        rows = pricer.batch.rows_per_step
        open_places = [place for place in self.places if place.blocked is None]
        self.blocked = None if open_places else self.places[0].blocked
        self.layouts = [
            layout
            for place in open_places or self.places[:1]
            for layout in layouts(place, spec=pricer.spec, rows_per_step=rows)
        ]
        self._usual = [layout for layout in self.layouts if not layout.offload_optimizer]
        self._sorted: dict[tuple[Expense, float], list[tuple[float, int, Layout]]] = {}
        self._found: dict[tuple[int, float], Priced | None] = {}  # by the layout's identity and the share
        self._least_peaks: dict[int, int] = {}  # by the layout's identity

    @property
    def may_fill(self) -> float:
        """The share of free memory that a plan may fill at most."""
        return 1.0 if self.forced else MOST_FILLED

    @property
    def can_fit(self) -> bool:
        """Whether anything does, without asking which is best."""
        return self.blocked is None and any(self._least_share(layout) <= self.may_fill for layout in self._roomiest)

    def chosen(self) -> Candidate:
        """What serves the goal; without room for a margin what fills least; where nothing fits what misses least."""
        found = self._by_goal()
        if found is not None and found.seconds <= LONGEST_RUN_SECONDS:
            return self.candidate(found)
        if found is not None:
            years = f"{self._name_of_method} would take {duration(found.seconds)} here"
            return self.candidate(found, blocked=years)
        return self.candidate(self._least_missing(), blocked=self.blocked)

    @cached_property
    def quickest(self) -> Priced | None:
        """The soonest done that keeps its margin."""
        return self._least(_seconds, share=self.usable)

    @cached_property
    def cheapest(self) -> Priced | None:
        """The least time of all devices together that keeps its margin, within a year where anything ends by then."""
        return self._least(self._cost, share=self.usable)

    @property
    def least_device_seconds(self) -> float:
        """No way that keeps its margin takes less time of all devices together, without sample answers."""
        floors = self._by_floor(self._cost, share=self.usable)
        return floors[0][0] if floors else math.inf

    @cached_property
    def safest(self) -> Priced:
        """The soonest done of those that run out of memory with less than `NO_RISK`, else the least filled."""
        share = min(self.usable, riskless_share(self.pricer.spread))
        return self._least(_seconds, share=share) or self._least_filled(self.layouts)

    def candidate(self, priced: Priced, *, blocked: str | None = None) -> Candidate:
        """With everything about these settings."""
        return Candidate(priced, self.pricer, blocked=blocked, may_fill=self.may_fill)

    def way(self, priced: Priced) -> Way:
        """In short."""
        layout = priced.layout
        return Way(
            method=self.pricer.method,
            world_size=layout.world_size,
            zero_stage=layout.zero_stage,
            sharded_base=layout.sharded_base,
            offload_optimizer=layout.offload_optimizer,
            optimizer=layout.optimizer,
            activation_checkpointing=priced.checkpointing,
            tokens_per_micro_step=priced.tokens_per_micro_step,
            seconds=priced.seconds,
            device_seconds=priced.gpu_seconds,
            peak_bytes=priced.peak_bytes,
            out_of_memory_probability=risk_of(priced, spread=self.pricer.spread),
            sample_seconds=priced.sample_seconds,
        )

    def quickest_of(self, layout: Layout) -> Priced | None:
        """The soonest done with this layout that keeps its margin."""
        return self._quickest_of(layout, share=self.usable)

    @property
    def usable(self) -> float:
        """The share of free memory that a predicted peak may take."""
        return usable_share(self.pricer.margin)

    @property
    def _cost(self) -> Expense:
        takes_years = self.quickest is None or self.quickest.seconds > LONGEST_RUN_SECONDS
        return _device_seconds if takes_years else _device_seconds_within_a_year

    @property
    def _roomiest(self) -> Iterable[Layout]:
        """Of layouts with equal peaks the one with fewest devices, which has most memory free."""
        found: dict[tuple[int, LayoutKey], Layout] = {}
        for layout in self.layouts:
            found.setdefault((id(layout.place), layout.memory_key), layout)
        return found.values()

    @property
    def _name_of_method(self) -> str:
        return {Method.FULL: "Full fine-tuning", Method.LORA: "LoRA", Method.QLORA: "QLoRA"}[self.pricer.method]

    def _by_goal(self) -> Priced | None:
        if self.blocked is not None:
            return None
        if self.quickest is not None:
            preferred = self._preferred(self.quickest)
            if not preferred.layout.offload_optimizer:
                return preferred
            tight = self._least_filled(self._usual)
            return min(tight, preferred, key=self._expense_of_goal) if tight.filled <= self.may_fill else preferred
        among = (self._usual, self.layouts)
        smallest = (self._least_filled(layouts) for layouts in among)
        return next((priced for priced in smallest if priced.filled <= self.may_fill), None)

    def _expense_of_goal(self, priced: Priced) -> float:
        return priced.working_gpu_seconds if self.pricer.spec.goal is Goal.COST else priced.working_seconds

    def _preferred(self, quickest: Priced) -> Priced:
        """By the goal; moments of 8 bits, and a frozen base in parts, only where they save much time."""
        goal = self.pricer.spec.goal
        if goal is Goal.COST:
            return self.cheapest or quickest
        if goal is Goal.SPEED:
            return quickest
        if quickest.layout.optimizer != "adamw":
            return self._within(PRICE_OF_EXACT_MOMENTS, quickest, _has_exact_moments) or quickest
        if quickest.layout.gathers_weights and self.pricer.method is not Method.FULL:
            return self._within(PRICE_OF_WHOLE_COPIES, quickest, _holds_all_weights) or quickest
        return quickest

    def _within(self, price: float, quickest: Priced, wanted: Callable[[Layout], bool]) -> Priced | None:
        """The soonest of the layouts that are wanted, if it takes no more than `price` times as long."""
        found = self._least(_seconds, share=self.usable, wanted=wanted)
        return found if found is not None and found.working_seconds <= price * quickest.working_seconds else None

    def _least_filled(self, among: list[Layout]) -> Priced:
        """What needs the smallest share of the free memory."""
        return self._smallest_of(self._least_by(self._least_share, among))

    def _least_missing(self) -> Priced:
        """Where nothing fits: the smallest deficit on the strongest devices."""
        own = [layout for layout in self.layouts if layout.place is self.layouts[0].place]
        return self._smallest_of(
            self._least_by(lambda layout: self.least_peak(layout) - layout.budget_bytes, own),
        )

    def _least_by(self, size: Callable[[Layout], float], among: list[Layout]) -> Layout:
        """Ties go to the sooner; bounds of durations cost far more than peaks, so no others are asked for theirs."""
        sizes = [size(layout) for layout in among]
        least = min(sizes)
        ties = [layout for layout, own in zip(among, sizes, strict=True) if own == least]
        return ties[0] if len(ties) == 1 else min(ties, key=self._bound)

    def _least_share(self, layout: Layout) -> float:
        return self.least_peak(layout) / max(1, layout.budget_bytes)

    def _smallest_of(self, layout: Layout) -> Priced:
        return self.pricer.price(layout, self._least_mode(layout), self.sizes(layout)[-1])

    def _least(
        self, expense: Expense, *, share: float, wanted: Callable[[Layout], bool] = lambda _: True
    ) -> Priced | None:
        """The least expense of all settings that fill at most `share` of what is free; ties go to the lower peak."""
        best: Priced | None = None
        best_rank: Rank | None = None
        for floor, position, layout in self._by_floor(expense, share=share):
            if best_rank is not None and floor > best_rank[0]:
                break
            if not wanted(layout):
                continue
            if best_rank is not None:
                closer = self._closer_bound(layout, share=share)
                if expense(closer, layout.world_size) > best_rank[0]:
                    continue
            found = self._quickest_of(layout, share=share)
            if found is None:
                continue
            rank = (*_rank(found, expense), position)
            if best_rank is None or rank < best_rank:
                best, best_rank = found, rank
        return best

    def _by_floor(self, expense: Expense, *, share: float) -> list[tuple[float, int, Layout]]:
        """Layouts that fit, with their places among all, sorted once for each question."""
        key = expense, share
        if key not in self._sorted:
            floors = (
                (expense(self.pricer.floor_seconds(layout), layout.world_size), position, layout)
                for position, layout in enumerate(self.layouts)
                if self.least_peak(layout) <= layout.budget_bytes * share
            )
            self._sorted[key] = sorted(floors, key=itemgetter(0, 1))
        return self._sorted[key]

    def _bound(self, layout: Layout) -> float:
        return self.pricer.least_seconds(layout, tokens=self.sizes(layout)[0])

    def _closer_bound(self, layout: Layout, *, share: float) -> float:
        """No settings of it that fit are quicker: rows as unevenly shared out as they are, the least recomputation.

        Looking through its micro-steps takes five times as long.
        """
        pricer = self.pricer
        if pricer.kernels_differ or (id(layout), share) in self._found:
            return 0.0
        sizes, budget = self.sizes(layout), layout.budget_bytes * share
        modes = (mode for mode in LEAST_RECOMPUTATION_FIRST if pricer.peak_bytes(layout, mode, sizes[-1]) <= budget)
        return pricer.durations(layout, next(modes, "full"), sizes[0]).working

    def sizes(self, layout: Layout) -> tuple[int, ...]:
        """Micro-steps that are tried, the largest first."""
        return self.pricer.sizes(layout)

    def _quickest_of(self, layout: Layout, *, share: float) -> Priced | None:
        key = (id(layout), share)
        if key not in self._found:
            self._found[key] = self._search(layout, share=share)
        return self._found[key]

    def _search(self, layout: Layout, *, share: float) -> Priced | None:
        """For each amount of recomputation the largest micro-step that fits; more of either is never quicker."""
        budget = layout.budget_bytes * share
        if self.least_peak(layout) > budget:
            return None
        sizes = self.sizes(layout)
        best: Priced | None = None
        for checkpointing in LEAST_RECOMPUTATION_FIRST:
            first = bisect_left(sizes, -budget, key=lambda size: -self.pricer.peak_bytes(layout, checkpointing, size))
            if first == len(sizes):
                continue
            found = self.pricer.price(layout, checkpointing, sizes[first])
            if best is None or (found.working_seconds, found.peak_bytes) < (best.working_seconds, best.peak_bytes):
                best = found
            if first == 0 and not self.pricer.kernels_differ:
                break
        return best and self._shrunk(best, sizes)

    def _shrunk(self, priced: Priced, sizes: tuple[int, ...]) -> Priced:
        """A smaller micro-step where it costs no time: as many of them fill a step."""
        layout, checkpointing = priced.layout, priced.checkpointing
        for size in sizes[sizes.index(priced.tokens_per_micro_step) + 1 :]:
            if self.pricer.durations(layout, checkpointing, size).working > priced.working_seconds:
                break
            priced = self.pricer.price(layout, checkpointing, size)
        return priced

    def least_peak(self, layout: Layout) -> int:
        """The smallest peak that this layout can have."""
        found = self._least_peaks.get(id(layout))
        if found is None:
            found = self.pricer.peak_bytes(layout, self._least_mode(layout), self.sizes(layout)[-1])
            self._least_peaks[id(layout)] = found
        return found

    def _least_mode(self, layout: Layout) -> Checkpointing:
        """Full recomputation, unless measurements say that another mode needs less."""
        if not self.pricer.kernels_differ:
            return "full"
        tokens = self.sizes(layout)[-1]
        return min(LEAST_RECOMPUTATION_FIRST, key=lambda mode: self.pricer.peak_bytes(layout, mode, tokens))


def _rank(priced: Priced, expense: Expense) -> tuple[float, bool, int, int]:
    """Moments of 8 bits lose ties, for they are rounded; of equal peaks the one on fewer devices wins."""
    layout = priced.layout
    spent = expense(priced.working_seconds, layout.world_size)
    return spent, layout.optimizer != "adamw", priced.peak_bytes, layout.world_size


def _has_exact_moments(layout: Layout) -> bool:
    return layout.optimizer == "adamw"


def _holds_all_weights(layout: Layout) -> bool:
    return not layout.gathers_weights


def _seconds(seconds: float, _world_size: int) -> float:
    return seconds


def _device_seconds(seconds: float, world_size: int) -> float:
    return seconds * world_size


def _device_seconds_within_a_year(seconds: float, world_size: int) -> float:
    return seconds * world_size if seconds <= LONGEST_RUN_SECONDS else math.inf
