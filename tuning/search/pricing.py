"""What one method's launch settings cost in memory and time, remembered: searches of several machines ask for the same.

Nothing here depends on how many GPUs a machine has, only on which layout is priced.
"""

from functools import cached_property
from typing import NamedTuple

from tunesmith.tuning.corrections import Corrections, Ratios
from tunesmith.tuning.datasets.balance import DrawnSteps
from tunesmith.tuning.datasets.cut_rows import with_rows_cut
from tunesmith.tuning.datasets.lengths import typical_lengths
from tunesmith.tuning.estimates.activations import Checkpointing
from tunesmith.tuning.estimates.evaluation_time import (
    Durations,
    EvaluationCost,
    EvaluationCosts,
    durations,
    with_evaluations,
)
from tunesmith.tuning.estimates.margins import assumed_spread, margin_of
from tunesmith.tuning.estimates.memory import Peaks, Setup, peaks_of, resident_bytes
from tunesmith.tuning.estimates.throughput import (
    Basis,
    MicroSteps,
    Steps,
    Workload,
    drawn_work,
    predict_by,
    steps_of,
)
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.kernels import Kernels
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import PlanRule, Reason, TimeEstimate
from tunesmith.tuning.recipe.evaluations import choose_early_stopping, evaluation_count, evaluation_interval
from tunesmith.tuning.recipe.hyperparameters import (
    choose_batch,
    choose_lora,
    choose_sequence_length,
)
from tunesmith.tuning.search.layouts import Kind, Layout, LayoutKey, basis_of, micro_step_sizes
from tunesmith.tuning.words import Method

_Key = tuple[LayoutKey, Checkpointing]

ANY_NUMBER = 1 << 62  # of tokens: a micro-step that takes whatever a step has
BELOW_ROUNDING = 1 - 1e-9  # the same sum in another order is off by less

FLOAT8_REASON = Reason(
    rule=PlanRule.FLOAT8_BASE,
    text="Adapted matrices of the base are held and multiplied in 8-bit floating point, as asked; its speed is a "
    "roofline and has not been measured.",
)


class Priced(NamedTuple):
    """Launch settings with their predicted peak and duration."""

    layout: Layout
    checkpointing: Checkpointing
    tokens_per_micro_step: int
    peak_bytes: int
    working_seconds: float  # without sample answers
    sample_seconds: float

    @property
    def setup(self) -> Setup:
        """All launch numbers."""
        return self.layout.setup(self.checkpointing, self.tokens_per_micro_step)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return self.working_seconds + self.sample_seconds

    @property
    def gpu_seconds(self) -> float:
        """Of all devices together."""
        return self.seconds * self.layout.world_size

    @property
    def working_gpu_seconds(self) -> float:
        """The same without sample answers."""
        return self.working_seconds * self.layout.world_size

    @property
    def filled(self) -> float:
        """Share of the free memory that the peak takes."""
        return self.peak_bytes / max(1, self.layout.budget_bytes)


class Recipe:
    """What every method does alike with one job."""

    def __init__(self, spec: JobSpec, shape: ModelShape, dataset: DatasetFacts) -> None:
        self.spec, self.shape, self.given = spec, shape, dataset
        self.sequence_length = choose_sequence_length(spec, dataset, shape)
        self.dataset = with_rows_cut(dataset, length=self.sequence_length[0])
        self.adapter = choose_lora(spec, self.dataset, shape)


class Pricer:
    """One method of one job: its recipe, and the price of any launch settings."""

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        *,
        corrections: Corrections,
        fewest_rows: int = 1,
    ) -> None:
        self.method, self.corrections = method, corrections
        self.spec, self.shape, dataset = recipe.spec, recipe.shape, recipe.dataset
        spec, shape = recipe.spec, recipe.shape
        self.lora, adapter_reasons = recipe.adapter
        self.batch = choose_batch(spec, dataset, method=method, at_least=fewest_rows)
        self.max_sequence_length, length_reason = recipe.sequence_length
        if method is Method.FULL:
            adapter_reasons = ()
        if spec.lora.float8_base and method is Method.LORA:
            adapter_reasons = (*adapter_reasons, FLOAT8_REASON)
        self.reasons = (*adapter_reasons, *self.batch.reasons, length_reason)
        row_tokens = dataset.tokens / dataset.rows
        self.workload = Workload(
            validation_rows=dataset.validation_rows,
            evaluations=self._evaluations(dataset),
            supervised_share=min(1.0, dataset.supervised_tokens / dataset.tokens),
            mean_row_tokens=min(row_tokens, self.max_sequence_length),
            rows_per_step=self.batch.rows_per_step,
            total_steps=self.batch.total_steps,
            epochs=self.batch.epochs,
            row_lengths=typical_lengths(
                dataset.row_length_counts,
                mean_tokens=row_tokens,
                longest_tokens=min(dataset.longest_row_tokens, self.max_sequence_length),
                rows=dataset.rows,
            ),
        )
        speeds = [corrections.speed, *(ratios.speed for ratios in corrections.by_kernels.values())]
        self._highest_speed = max((speed for speed in speeds if speed is not None), default=None)
        self._bases: dict[str, Basis] = {}  # by the device
        self._sizes: dict[tuple[str, int], tuple[int, ...]] = {}
        self._peaks: dict[tuple[str, int, Checkpointing], Peaks] = {}
        self._peak_bytes: dict[tuple[LayoutKey, Checkpointing, int], int] = {}
        self._steps: dict[tuple[_Key, str], tuple[Steps, float | None]] = {}
        self._durations: dict[tuple[_Key, int], Durations] = {}
        self._resident: dict[LayoutKey, int] = {}
        self._bounds: dict[LayoutKey, float] = {}
        self._floors: dict[LayoutKey, float] = {}
        self._same_for_all = None if self.kernels_differ else corrections.of("")
        self._micro_steps = MicroSteps(shape, self.workload)
        self._evaluation_costs = EvaluationCosts(self._micro_steps, self.workload)

    @property
    def kernels_differ(self) -> bool:
        """Whether measurements may say that more recomputation is quicker, or takes more memory."""
        return bool(self.corrections.by_kernels)

    @property
    def spread(self) -> float:
        """Standard deviation of the logarithm of measured over predicted peaks."""
        measured = self.corrections.memory_spread
        return assumed_spread(self.method) if measured is None else measured

    @property
    def margin(self) -> float:
        """The share of a predicted peak that is held back beyond it."""
        return margin_of(self.spread)

    def ratios(self, layout: Layout, checkpointing: Checkpointing) -> Ratios:
        """What runs with these kernels measured, else with any."""
        if self._same_for_all is not None:
            return self._same_for_all
        setup = layout.place.base
        kernels = Kernels(
            attention=layout.place.attention,
            activation_checkpointing=checkpointing,
            optimizer=layout.optimizer,
            fused_passes=layout.fused_passes,
            zero_stage=layout.zero_stage,
            offload_optimizer=layout.offload_optimizer,
            float8_base=setup.float8_base,
            packing=setup.packing,
            sharded_base=layout.sharded_base,
        )
        return self.corrections.of(kernels.label)

    def basis_of(self, kind: Kind) -> Basis:
        """Of this method on devices of that kind."""
        found = self._bases.get(kind.device)
        if found is None:
            found = self._bases[kind.device] = basis_of(
                self.method,
                kind,
                spec=self.spec,
                shape=self.shape,
                lora=self.lora,
                longest_row_tokens=self.max_sequence_length,
            )
        return found

    def sizes(self, layout: Layout) -> tuple[int, ...]:
        """Micro-steps that are tried, the largest first."""
        key = (layout.place.kind, layout.world_size)
        found = self._sizes.get(key)
        if found is None:
            found = self._sizes[key] = micro_step_sizes(
                layout,
                shape=self.shape,
                longest_row_tokens=self.max_sequence_length,
                tokens_per_step=self.workload.mean_row_tokens * self.batch.rows_per_step,
            )
        return found

    def peak_bytes(self, layout: Layout, checkpointing: Checkpointing, tokens: int) -> int:
        """Predicted peak on one device."""
        key = (layout.memory_key, checkpointing, tokens)
        found = self._peak_bytes.get(key)
        if found is None:
            peak = self._peaks_of(layout, checkpointing).of(tokens, resident=self._resident_bytes(layout))
            correction = self.ratios(layout, checkpointing).memory
            found = self._peak_bytes[key] = int(peak * correction) if correction else peak
        return found

    def durations(self, layout: Layout, checkpointing: Checkpointing, tokens: int) -> Durations:
        """Predicted for all steps, evaluations and sample answers."""
        key = ((layout.key, checkpointing), tokens)
        found = self._durations.get(key)
        if found is None:
            steps, correction = self._steps_of(layout, checkpointing)
            training = steps.seconds(tokens, evenness=self.evenness(layout), correction=correction)
            cost = self._evaluation_cost(layout, tokens)
            found = self._durations[key] = durations(training, cost, correction=correction)
        return found

    def price(self, layout: Layout, checkpointing: Checkpointing, tokens: int) -> Priced:
        """Both."""
        peak = self.peak_bytes(layout, checkpointing, tokens)
        spent = self.durations(layout, checkpointing, tokens)
        return Priced(layout, checkpointing, tokens, peak, spent.working, spent.samples)

    def time(self, priced: Priced) -> TimeEstimate:
        """The duration with its range."""
        layout, tokens = priced.layout, priced.tokens_per_micro_step
        steps, correction = self._steps_of(layout, priced.checkpointing)
        training = predict_by(steps, tokens, evenness=self.evenness(layout), correction=correction)
        return with_evaluations(training, self._evaluation_cost(layout, tokens), correction=correction)

    def floor_seconds(self, layout: Layout) -> float:
        """No settings of it are quicker: nothing recomputed, one micro-step, rows as even as they can come out.

        Simulating how unevenly rows are shared out takes twenty times as long.
        """
        found = self._floors.get(layout.key)
        if found is None:
            steps, _ = self._steps_of(layout, "none")
            evenness = 1.0 if layout.world_size == 1 else self._work.most_evenness(layout.world_size)
            seconds = steps.seconds(ANY_NUMBER, evenness=evenness, correction=self._highest_speed)
            found = self._floors[layout.key] = seconds * BELOW_ROUNDING
        return found

    def least_seconds(self, layout: Layout, *, tokens: int) -> float:
        """The same of micro-steps of so many tokens and rows that come out even, with evaluations."""
        key = layout.key
        found = self._bounds.get(key)
        if found is None:
            steps, _ = self._steps_of(layout, "none")
            training = steps.seconds(tokens, evenness=1.0, correction=self._highest_speed)
            cost = self._evaluation_cost(layout, tokens)
            found = self._bounds[key] = durations(training, cost, correction=self._highest_speed).working
        return found

    def evenness(self, layout: Layout) -> float:
        """The share of a step in which the devices work, for as many as this layout has."""
        return 1.0 if layout.world_size == 1 else self._work.evenness(layout.world_size)

    @cached_property
    def _work(self) -> DrawnSteps:
        return drawn_work(self.shape, method=self.method, workload=self.workload)

    def _steps_of(self, layout: Layout, checkpointing: Checkpointing) -> tuple[Steps, float | None]:
        """And what their speed is corrected by."""
        basis = layout.place.basis
        key = ((layout.key, checkpointing), basis.device)
        found = self._steps.get(key)
        if found is None:
            one = self._micro_steps.of(basis, layout, checkpointing)
            steps = steps_of(basis, layout, one, workload=self.workload)
            found = self._steps[key] = steps, self.ratios(layout, checkpointing).speed
        return found

    def _peaks_of(self, layout: Layout, checkpointing: Checkpointing) -> Peaks:
        key = (layout.place.kind, layout.zero_stage, checkpointing)
        found = self._peaks.get(key)
        if found is None:
            found = self._peaks[key] = peaks_of(self.shape, layout.setup(checkpointing, 1))
        return found

    def _resident_bytes(self, layout: Layout) -> int:
        found = self._resident.get(layout.memory_key)
        if found is None:
            found = self._resident[layout.memory_key] = resident_bytes(layout.place.basis.footprint, layout)
        return found

    def _evaluations(self, dataset: DatasetFacts) -> int:
        total_steps = self.batch.total_steps
        patience, _ = choose_early_stopping(self.spec, dataset, total_steps=total_steps)
        interval = evaluation_interval(total_steps, patience=patience)
        return evaluation_count(total_steps, interval=interval) if dataset.validation_rows else 0

    def _evaluation_cost(self, layout: Layout, tokens: int) -> EvaluationCost:
        return self._evaluation_costs.of(layout.place.basis, layout, tokens=tokens)
