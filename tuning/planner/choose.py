"""Choose how to train a job on given hardware and say why: `choose` ranks the plans that fit by ordered rules."""

from collections.abc import Iterator, Mapping
from functools import cached_property

from tunesmith.tuning.corrections import Corrections
from tunesmith.tuning.estimates.margins import NO_RISK
from tunesmith.tuning.estimates.sharded_base import explain_shortage
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.constants import explain_constants
from tunesmith.tuning.hardware_facts.devices import equal_devices, why_apart, with_gpus
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import MemoryEstimate, Plan, PlanRule, Reason, Refusal, TimeEstimate
from tunesmith.tuning.planner.checks import check_hardware, impossible
from tunesmith.tuning.planner.evaluation import plan_evaluation
from tunesmith.tuning.planner.launch_reasons import explain_launch
from tunesmith.tuning.planner.outlook import changes_of, ways_of
from tunesmith.tuning.planner.rules import Decision, decide, method_of
from tunesmith.tuning.planner.suggestions import Asking, other_method, suggest_fit
from tunesmith.tuning.recipe.evaluations import choose_early_stopping, evaluation_interval, keeps_best_weights
from tunesmith.tuning.recipe.expert_adapters import say_experts_stay_whole
from tunesmith.tuning.recipe.hyperparameters import (
    checkpoint_interval,
    choose_batch,
    choose_learning_rate,
    warmup_steps,
)
from tunesmith.tuning.search.candidate import Candidate
from tunesmith.tuning.search.candidates import Search
from tunesmith.tuning.search.layouts import Kind, kinds_of
from tunesmith.tuning.search.pricing import Pricer, Recipe
from tunesmith.tuning.values.units import duration, gib
from tunesmith.tuning.words import Method, Objective

NO_CORRECTIONS = Corrections()
WORTH_A_WORD = 0.05  # of the duration, that goes to evaluations


def choose(
    *,
    spec: JobSpec,
    shape: ModelShape,
    dataset: DatasetFacts,
    hardware: HardwareProfile,
    corrections: Corrections | Mapping[Method, Corrections] = NO_CORRECTIONS,
    with_outlook: bool = True,
) -> Plan | Refusal:
    """Decide everything about one run, or refuse with the numbers that forbid it. Pure, and a few milliseconds.

    `corrections` holds measured over predicted ratios of earlier runs on this hardware, one for all methods or by
    method; a method without any is predicted by the formulas alone. Who wants to know only whether it fits leaves the
    outlook out, the `ways` and `changes` that a page shows: the rest of the plan is the same.

    Raises:
        InvalidRequest: the hardware or the data cannot be what they claim (negative memory, no rows).
    """
    check_hardware(hardware)
    refusal = impossible(spec=spec, shape=shape, dataset=dataset)
    if refusal is not None:
        return refusal
    if spec.evaluation is not None:
        return plan_evaluation(spec.evaluation, spec=spec, shape=shape, dataset=dataset, hardware=hardware)
    recipe, kinds = Recipe(spec, shape, dataset), kinds_of(hardware, shape)
    dataset = recipe.dataset
    for fewest_rows in _rows_per_step(spec, dataset=dataset, hardware=hardware):
        asked = _Asked(recipe, hardware, corrections, kinds=kinds, fewest_rows=fewest_rows)
        here = _Choice(asked.pricers, hardware, kinds=kinds, spec=spec, shape=shape, dataset=dataset)
        if any(here.searches[method].can_fit for method in _allowed(spec)):
            break
    decision = here.decision
    if decision.method is None:
        way_out = suggest_fit(here.candidates, spec=spec, dataset=dataset, asking=asked.asking)
        filled = _say_what_fills(here.candidates, spec=spec, shape=shape)
        instead = other_method(here.candidates, spec=spec)
        reasons = (*decision.reasons, *_say_machines(hardware), *filled, *instead, way_out)
        return Refusal(reasons=reasons, alternatives=decision.alternatives)
    chosen = here.candidates[decision.method]
    plan = _plan(chosen, here, spec=spec, shape=shape, dataset=dataset, hardware=hardware)
    if not with_outlook:
        return plan
    outlook = {
        "ways": ways_of(chosen, here.searches, spec=spec),
        "changes": changes_of(chosen, hardware, goal=spec.goal, choose=asked.choose_on),
    }
    return plan.model_copy(update=outlook)


class _Asked:
    """The question, and those that come up while it is answered: of this job elsewhere, and of another job here."""

    def __init__(
        self,
        recipe: Recipe,
        hardware: HardwareProfile,
        corrections: Corrections | Mapping[Method, Corrections],
        *,
        kinds: tuple[Kind, ...],
        fewest_rows: int,
    ) -> None:
        self._spec, self._shape, self._dataset = recipe.spec, recipe.shape, recipe.dataset
        self._recipe, self._hardware, self._kinds = recipe, hardware, kinds
        self._corrections = corrections
        self._fewest_rows = fewest_rows
        self._others: dict[tuple[Recipe, Method], Search] = {}
        self.pricers = {method: self._pricer(self._recipe, method, fewest_rows=fewest_rows) for method in Method}

    @property
    def asking(self) -> Asking:
        """What a refusal asks before it says what would fit."""
        return Asking(
            recipe_of=lambda spec: Recipe(spec, self._shape, self._recipe.given),
            retry=lambda recipe, method: self._search(recipe, method).chosen(),
            may_fit=lambda recipe, method: self._search(recipe, method).can_fit,
            on_more_gpus=self._on_more_gpus,
        )

    def choose_on(self, larger: HardwareProfile) -> Candidate | None:
        """What this job would be on another machine."""
        allowed = {method: self.pricers[method] for method in _allowed(self._spec)}
        spec, shape, dataset = self._spec, self._shape, self._dataset
        kinds = kinds_of(larger, shape)
        return _Choice(allowed, larger, kinds=kinds, spec=spec, shape=shape, dataset=dataset).chosen

    def _search(self, recipe: Recipe, method: Method) -> Search:
        key = (recipe, method)
        if key not in self._others:
            pricer = self._pricer(recipe, method, fewest_rows=self._fewest_rows)
            self._others[key] = Search(pricer, self._hardware, kinds=self._kinds)
        return self._others[key]

    def _on_more_gpus(self, method: Method, number: int) -> Candidate | None:
        larger, pricer = with_gpus(self._hardware, number), self.pricers[method]
        if larger is None:
            return None
        if pricer.batch.rows_per_step < number:
            pricer = self._pricer(self._recipe, method, fewest_rows=min(number, self._dataset.rows))
        search = Search(pricer, larger)
        return search.chosen() if search.can_fit else None

    def _pricer(self, recipe: Recipe, method: Method, *, fewest_rows: int) -> Pricer:
        known = self._corrections
        own = known if isinstance(known, Corrections) else known.get(method, NO_CORRECTIONS)
        return Pricer(method, recipe, corrections=own, fewest_rows=fewest_rows)


def _allowed(spec: JobSpec) -> tuple[Method, ...]:
    return tuple(Method) if spec.method == "auto" else (Method(spec.method),)


def _rows_per_step(spec: JobSpec, *, dataset: DatasetFacts, hardware: HardwareProfile) -> Iterator[int]:
    """As few as the recipe takes; where nothing fits more, until each GPU that could hold a share of the model has one.

    A step has a row for each of its processes, so of little data a large model could not be shared out. The numbers
    that are tried do not depend on how many GPUs there are, so one more of them makes no plan slower.
    """
    yield 1
    most = max(len(kind.gpus) for kind in equal_devices(hardware))
    if spec.hyperparameters.batch_size != "auto":
        return
    usual = min(choose_batch(spec, dataset, method=method).rows_per_step for method in Method)
    while usual < min(most, dataset.rows):
        usual = min(2 * usual, dataset.rows)
        yield usual


class _Choice:
    """The methods on one machine, and the one that the rules take."""

    def __init__(
        self,
        pricers: Mapping[Method, Pricer],
        hardware: HardwareProfile,
        *,
        kinds: tuple[Kind, ...],
        spec: JobSpec,
        shape: ModelShape,
        dataset: DatasetFacts,
    ) -> None:
        self.searches = {method: Search(pricer, hardware, kinds=kinds) for method, pricer in pricers.items()}
        self._spec, self._shape, self._dataset, self._hardware = spec, shape, dataset, hardware

    @cached_property
    def candidates(self) -> dict[Method, Candidate]:
        """Of each method the best."""
        return {method: search.chosen() for method, search in self.searches.items()}

    @property
    def chosen(self) -> Candidate | None:
        """None when nothing fits; without a word about why."""
        spec, dataset, shape, hardware = self._spec, self._dataset, self._shape, self._hardware
        method = method_of(self.candidates, spec=spec, dataset=dataset, shape=shape, hardware=hardware)
        return None if method is None else self.candidates[method]

    @cached_property
    def decision(self) -> Decision:
        """Which method, with its reasons."""
        spec, dataset, shape, hardware = self._spec, self._dataset, self._shape, self._hardware
        return decide(self.candidates, spec=spec, dataset=dataset, shape=shape, hardware=hardware)


def _say_which(candidate: Candidate, *, of: HardwareProfile) -> Iterator[Reason]:
    """Which of a machine's GPUs are used, where some were left out for what they are."""
    own = candidate.place.hardware.gpus
    if len(own) < len(of.gpus):
        yield Reason(rule=PlanRule.DEVICES, text=why_apart(own, of=of.gpus))


def _say_machines(hardware: HardwareProfile) -> Iterator[Reason]:
    """In a refusal: that the GPUs of several machines cannot hold a model together."""
    if len({gpu.machine for gpu in hardware.gpus}) > 1:
        yield Reason(rule=PlanRule.DEVICES, text=why_apart(equal_devices(hardware)[0].gpus, of=hardware.gpus))


def _say_what_fills(candidates: Mapping[Method, Candidate], *, spec: JobSpec, shape: ModelShape) -> tuple[Reason, ...]:
    """What misses the memory: activations of long rows; of a 4-bit base what is whole, and what 4 bits do not reach."""
    tried = [candidates[method] for method in _allowed(spec) if candidates[method].blocked is None]
    if not tried:
        return ()
    least = min(tried, key=lambda candidate: candidate.peak_bytes)
    items = least.memory.items
    activations = items.get("activations", 0) + items.get("layer_backward", 0)
    if activations > least.peak_bytes / 2:
        text = (
            f"Rows of {least.max_sequence_length:,} tokens fill {gib(activations)} of it with activations although "
            f"every layer is recomputed: a row is never split over several devices here."
        )
        return (Reason(rule=PlanRule.SEQUENCE_LENGTH, text=text),)
    qlora = candidates[Method.QLORA]
    if spec.method not in ("auto", Method.QLORA) or qlora.blocked is not None:
        return ()
    return (*explain_shortage(shape, qlora.setup), *say_experts_stay_whole(shape))


def _plan(
    candidate: Candidate,
    choice: _Choice,
    *,
    spec: JobSpec,
    shape: ModelShape,
    dataset: DatasetFacts,
    hardware: HardwareProfile,
) -> Plan:
    setup, batch = candidate.setup, candidate.batch
    full = setup.method is Method.FULL
    rate, rate_reason = choose_learning_rate(spec, shape, method=setup.method, rows_per_step=batch.rows_per_step)
    patience, patience_reasons = choose_early_stopping(spec, dataset, total_steps=batch.total_steps)
    keeps_best, best_reasons = keeps_best_weights(dataset, method=setup.method, patience=patience)
    beta = spec.hyperparameters.beta
    seconds_per_step = candidate.time.training_seconds / batch.total_steps
    return Plan(
        method=setup.method,
        objective=spec.objective.value,
        device=setup.device,
        device_name=candidate.place.hardware.gpus[0].name if candidate.place.hardware.gpus else "",
        world_size=setup.world_size,
        precision=setup.precision,
        attention=candidate.attention,
        quantization="nf4" if setup.method is Method.QLORA else None,
        double_quantization=setup.double_quantization,
        lora=None if full else candidate.lora,
        activation_checkpointing=setup.checkpointing,
        optimizer=setup.optimizer,
        packing=setup.packing,
        fused_passes=setup.fused_passes,
        float8_base=setup.float8_base,
        zero_stage=setup.zero_stage,
        offload_optimizer=setup.offload_optimizer,
        sharded_base=setup.sharded_base,
        learning_rate=rate,
        schedule="linear",
        warmup_steps=warmup_steps(batch.total_steps),
        weight_decay=0.01 if full else 0.0,
        max_gradient_norm=1.0,
        beta=(0.1 if beta == "auto" else beta) if spec.objective is Objective.DPO else None,
        epochs=batch.epochs,
        rows_per_step=batch.rows_per_step,
        max_sequence_length=candidate.max_sequence_length,
        on_long_row=spec.on_long_row,
        tokens_per_micro_step=setup.tokens_per_micro_step,
        total_steps=batch.total_steps,
        evaluation_interval_steps=evaluation_interval(batch.total_steps, patience=patience),
        early_stopping_patience=patience,
        keeps_best_weights=keeps_best,
        checkpoint_interval_steps=checkpoint_interval(batch.total_steps, seconds_per_step=seconds_per_step),
        seed=spec.seed,
        memory=candidate.memory,
        time=candidate.time,
        reasons=_reasons(candidate, choice, recipe=(rate_reason, *patience_reasons, *best_reasons), hardware=hardware),
        alternatives=choice.decision.alternatives,
    )


def _reasons(
    candidate: Candidate, choice: _Choice, *, recipe: tuple[Reason, ...], hardware: HardwareProfile
) -> tuple[Reason, ...]:
    """In the order in which a reader wonders; that most of a model learns nothing comes before any launch number."""
    setup = candidate.setup
    experts = [reason for reason in candidate.reasons if reason.rule == PlanRule.EXPERTS]
    return (
        *choice.decision.reasons,
        *experts,
        *_say_which(candidate, of=hardware),
        *explain_launch(candidate, choice.searches[setup.method]),
        *(reason for reason in candidate.reasons if reason not in experts),
        *recipe,
        explain_constants(candidate.place.hardware, precision=setup.precision),
        _summary(candidate),
    )


def _summary(candidate: Candidate) -> Reason:
    memory, time, hardware = candidate.memory, candidate.time, candidate.place.hardware
    where = f"free on this {hardware.gpus[0].name}" if hardware.gpus else _on_a_host(hardware)
    peak = f"Predicted peak {gib(memory.total_bytes)} of {gib(memory.budget_bytes)} {where}{_risk(candidate)}"
    duration_range = f"{duration(time.seconds_low)} to {duration(time.seconds_high)}"
    learned = _correction_note(memory, time, basis=candidate.correction_basis)
    digits = 0 if time.tokens_per_second >= 10 else 1
    speed = f"{time.tokens_per_second:,.{digits}f} tokens/s, {duration_range}{_beside_training(time)}"
    return Reason(rule=PlanRule.PREDICTION, text=f"{peak}; {speed}.{learned}")


def _on_a_host(hardware: HardwareProfile) -> str:
    return f"to be used on {hardware.cpu.model}, where a tenth of the free memory is left to others"


def _beside_training(time: TimeEstimate) -> str:
    """What of the duration does not train, where it is a part worth a word."""
    beside = time.evaluation_seconds + time.sample_seconds
    if beside < WORTH_A_WORD * time.seconds:
        return ""
    parts = {"evaluations": time.evaluation_seconds, "sample answers": time.sample_seconds}
    texts = [(name, duration(seconds)) for name, seconds in parts.items() if seconds >= 1]
    if not texts:
        return ""
    (first, spent), *others = texts
    return f", of which {first} take {spent}" + "".join(f" and {name} {text}" for name, text in others)


def _risk(candidate: Candidate) -> str:
    """How likely it is that the peak is higher than what is free, and what is done about it."""
    risk = candidate.memory.out_of_memory_probability or 0.0
    if risk < NO_RISK:
        return ""
    if candidate.has_margin:
        return f", a risk of {risk:.1%} of running out of memory"
    return (
        f", without the margin of {candidate.margin:.0%} that predictions want: a risk of {risk:.0%} of running out of "
        f"memory, which the canary step tries before training"
    )


def _correction_note(memory: MemoryEstimate, time: TimeEstimate, *, basis: str) -> str:
    """What earlier measurements changed about the prediction, and which they were."""
    extra = memory.items.get("measured_correction", 0)
    ratio = memory.total_bytes / max(1, memory.total_bytes - extra)
    if not extra and time.measured_correction == 1:
        return f" Confirmed by what was measured here: {basis}." if basis else ""
    resting_on = f" ({basis})" if basis else ""
    return (
        f" Corrected by what earlier runs here measured: memory x {ratio:.2f}, speed x {time.measured_correction:.2f}"
        f"{resting_on}."
    )
