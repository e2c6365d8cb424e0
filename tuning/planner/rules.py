"""The ordered, named rules that pick a method among those that fit, and say of each other one which rule rejected it.

Two questions have answers of their own: whether everything learns or an adapter, and over which weights an adapter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import Alternative, PlanRule, Reason
from tunesmith.tuning.recipe.hyperparameters import LARGEST_RANK, NAMES
from tunesmith.tuning.search.candidate import Candidate
from tunesmith.tuning.search.layouts import why_whole
from tunesmith.tuning.values.units import against, count, duration, gib, gib_apart, instead_of, plural
from tunesmith.tuning.words import Goal, Method

SMALL_DATA_ROWS = 10_000  # adapters match full fine-tuning here (LoRA Without Regret, 2025); the guide says 5K
SMALL_DATA_ROWS_FOR_QUALITY = 5_000
LARGE_DATA_ROWS = 50_000
MOST_FOR_SHARDED_LORA = 1.3  # times QLoRA's duration that 16-bit weights are worth when they must be shared out
MUCH_QUICKER = 0.9  # of a duration
WORTH_SAVING = 0.01  # of a peak


@dataclass(frozen=True, slots=True)
class Decision:
    """The method, or None when nothing fits."""

    method: Method | None
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a rule looks at. `fitting` keep their margin, or, where none does, fit without."""

    candidates: Mapping[Method, Candidate]
    fitting: Mapping[Method, Candidate]
    spec: JobSpec
    dataset: DatasetFacts
    shape: ModelShape
    gpus: int

    def adapter_parameters(self, rank: int) -> int:
        """Of an adapter of that rank: as many tokens as it can learn from."""
        return self.shape.adapter_parameters(rank=rank, targets=self.spec.lora.target_modules)


class Verdict(NamedTuple):
    """A rule's answer. `why` can follow "but", and stand alone when its first letter is raised."""

    method: Method
    rule: PlanRule
    why: str

    @property
    def reason(self) -> Reason:
        """As a sentence."""
        return Reason(rule=self.rule, text=f"{sentence(self.why)}.")


Rule = Callable[[Situation], tuple[bool, str] | None]


def decide(
    candidates: Mapping[Method, Candidate],
    *,
    spec: JobSpec,
    dataset: DatasetFacts,
    shape: ModelShape,
    hardware: HardwareProfile,
) -> Decision:
    """Apply the rules in order; the first that speaks decides."""
    fitting = _fitting(candidates, spec=spec)
    if spec.method != "auto" and spec.method not in fitting:
        return _refuse(candidates, methods=[spec.method], rule=PlanRule.FORCED_METHOD)
    if not fitting:
        return _refuse(candidates, methods=_nearest_first(candidates), rule=PlanRule.NOTHING_FITS)
    situation = Situation(candidates, fitting, spec, dataset, shape, len(hardware.gpus))
    verdicts = _verdicts(situation)
    method = verdicts[-1].method
    alternatives = tuple(
        Alternative(
            method=other.method,
            fits=other.fits,
            peak_bytes=other.peak_bytes,
            rejected_because=_rejection(other, candidates[method], verdicts=verdicts, situation=situation),
        )
        for other in candidates.values()
        if other.method is not method
    )
    return Decision(method, tuple(verdict.reason for verdict in verdicts), alternatives)


def method_of(
    candidates: Mapping[Method, Candidate],
    *,
    spec: JobSpec,
    dataset: DatasetFacts,
    shape: ModelShape,
    hardware: HardwareProfile,
) -> Method | None:
    """What `decide` decides, without a word about why; None when nothing fits."""
    fitting = _fitting(candidates, spec=spec)
    if not fitting or (spec.method != "auto" and spec.method not in fitting):
        return None
    return _verdicts(Situation(candidates, fitting, spec, dataset, shape, len(hardware.gpus)))[-1].method


def sentence(text: str) -> str:
    """With its first letter raised."""
    return text[:1].upper() + text[1:]


def shortage(candidate: Candidate, *, smallest: bool = False) -> str:
    """Why this does not fit, or not with its margin; `smallest` says that no settings of the method need less."""
    if candidate.blocked:
        return candidate.blocked
    peak, budget, setup = candidate.peak_bytes, candidate.budget_bytes, candidate.setup
    needed, free = gib_apart(peak, budget)
    text = f"{name_of(candidate)} needs {needed}{_on_each(candidate)}"
    even = ["with the smallest settings"] * smallest + ["with its optimizer in host memory"] * setup.offload_optimizer
    if even:
        text += f" even {' and '.join(even)}"
    if peak <= budget:
        text += f" and {gib(candidate.margin_bytes)} more in hand, because a prediction is not a measurement"
    elif why := _why_whole(candidate):
        text += f", because {why}"
    are_free = "are free" if candidate.place.hardware.gpus else "may be used"
    return f"{text}; {free} {are_free} on this {candidate.place.name}"


def name_of(candidate: Candidate) -> str:
    """With the precision where it tells LoRA from QLoRA, and what is done to its weights."""
    precision = f" {candidate.setup.precision}" if candidate.method is Method.LORA else ""
    shared = f" with its weights shared out over {candidate.setup.world_size} GPUs"
    return f"{NAMES[candidate.method]}{precision}{shared if candidate.setup.sharded_base else ''}"


def _on_each(candidate: Candidate) -> str:
    setup = candidate.setup
    if setup.sharded_base:
        return " on each"
    if setup.zero_stage and setup.world_size > 1:
        return f" on each of {setup.world_size} GPUs"
    return " on each GPU" if _why_whole(candidate) else ""


def _why_whole(candidate: Candidate) -> str | None:
    """Why it is as much on each of several GPUs, where it is."""
    setup, place = candidate.setup, candidate.place
    is_alone = len(place.hardware.gpus) < 2 or place.hardware.gpus[0].mig
    if is_alone or setup.sharded_base or setup.zero_stage:
        return None
    return why_whole(place, spec=candidate.pricer.spec)


def _fitting(candidates: Mapping[Method, Candidate], *, spec: JobSpec) -> dict[Method, Candidate]:
    """Those with a margin, else those without one; the optimizer in host memory only where nothing else fits."""
    fitting = {method: candidate for method, candidate in candidates.items() if candidate.has_margin}
    if spec.method != "auto":
        return {method: candidate for method, candidate in candidates.items() if candidate.fits}
    if not fitting:
        fitting = {method: candidate for method, candidate in candidates.items() if candidate.fits}
    if len(fitting) > 1 and candidates[Method.FULL].setup.offload_optimizer:
        fitting.pop(Method.FULL, None)
    return fitting


def _verdicts(situation: Situation) -> list[Verdict]:
    spec, fitting = situation.spec, situation.fitting
    if spec.method != "auto":
        return [Verdict(spec.method, PlanRule.FORCED_METHOD, f"{NAMES[spec.method]} was asked for")]
    if len(fitting) == 1:
        return [_only_one(situation)]
    if spec.goal in (Goal.SPEED, Goal.COST):
        return [_least_expense(situation)]
    adapter = _choose_adapter(situation)
    if Method.FULL not in fitting:
        return [adapter]
    for name, rule in FULL_OR_ADAPTER:
        answer = rule(situation)
        if answer is not None:
            everything, why = answer
            learns = Verdict(Method.FULL if everything else adapter.method, name, why)
            return [learns] if everything else [learns, adapter]
    raise AssertionError("the last rule always decides")


def _only_one(situation: Situation) -> Verdict:
    (method,) = situation.fitting
    lost = situation.candidates[Method.LORA]
    if method is Method.QLORA:
        return Verdict(method, PlanRule.ONLY_ONE_FITS, f"{shortage(lost)}, so QLoRA, the only method that fits")
    return Verdict(method, PlanRule.ONLY_ONE_FITS, f"{NAMES[method]} is the only method that fits")


def _least_expense(situation: Situation) -> Verdict:
    goal = situation.spec.goal
    found = min(situation.fitting.values(), key=lambda found: (found.expense(goal), found.method is Method.QLORA))
    method, spent = found.method, duration(_expense_of(found, goal))
    unit = f" of {_device_time(situation)}, the least" if goal is Goal.COST else ", the soonest"
    why = f"goal {goal}: {NAMES[method]} needs {spent}{unit} of all that fit"
    return Verdict(method, PlanRule.GOAL, why)


def _choose_adapter(situation: Situation) -> Verdict:
    """LoRA over 16-bit weights wherever it fits: 4-bit ones are rounded, and cost speed.

    They save it where 16-bit ones must be gathered from other GPUs for every layer.
    """
    fitting = situation.fitting
    if Method.QLORA not in fitting:
        return Verdict(
            Method.LORA, PlanRule.BF16_BEFORE_4_BIT, f"of the adapters LoRA fits and {_unfit(situation)} does not"
        )
    if Method.LORA not in fitting:
        why = f"{shortage(situation.candidates[Method.LORA])}, so QLoRA"
        return Verdict(Method.QLORA, PlanRule.BF16_BEFORE_4_BIT, why)
    lora, qlora = fitting[Method.LORA], fitting[Method.QLORA]
    times = f"{against(lora.time.seconds, qlora.time.seconds)} {_for_qlora(lora, qlora)}"
    weights = lora.setup.precision
    if lora.setup.zero_stage == 3 and lora.time.working_seconds > MOST_FOR_SHARDED_LORA * qlora.time.working_seconds:
        instead = "gathers fewer bytes" if qlora.setup.sharded_base else "keeps a whole copy on each"
        why = (
            f"LoRA would share its {weights} weights out over {lora.setup.world_size} GPUs and gather them for every "
            f"layer, {times}, which {instead}"
        )
        return Verdict(Method.QLORA, PlanRule.SHARED_OUT_WEIGHTS, why)
    why = f"LoRA over {weights} weights comes before 4-bit ones, which are rounded: {times}"
    if qlora.time.working_seconds < MUCH_QUICKER * lora.time.working_seconds:
        why += ", which goal speed would take"
    return Verdict(Method.LORA, PlanRule.BF16_BEFORE_4_BIT, why)


def _for_qlora(lora: Candidate, qlora: Candidate) -> str:
    return "as QLoRA" if duration(lora.time.seconds) == duration(qlora.time.seconds) else "for QLoRA"


def _information(situation: Situation) -> tuple[bool, str] | None:
    """Whether an adapter has room for what there is to learn (LoRA Without Regret, 2025)."""
    tokens = situation.dataset.supervised_tokens
    most, least = situation.adapter_parameters(LARGEST_RANK), situation.adapter_parameters(1)
    if tokens > most:
        return True, (
            f"{count(tokens)} tokens to learn from are more than an adapter of rank {LARGEST_RANK} has parameters "
            f"({count(most)}): full fine-tuning, and it fits"
        )
    if tokens <= least:
        fit = "token to learn from fits" if tokens == 1 else "tokens to learn from fit"
        return False, (
            f"{count(tokens)} {fit} into an adapter of rank 1 already ({count(least)} parameters), so full fine-tuning "
            f"would learn no more"
        )
    return None


def _small_data(situation: Situation) -> tuple[bool, str] | None:
    limit = SMALL_DATA_ROWS_FOR_QUALITY if situation.spec.goal is Goal.QUALITY else SMALL_DATA_ROWS
    if situation.dataset.all_rows >= limit:
        return None
    return False, (
        f"{plural(situation.dataset.all_rows, 'row')} are fewer than {limit:,}, where adapters reach the quality of "
        f"full fine-tuning"
    )


def _large_data(situation: Situation) -> tuple[bool, str] | None:
    rows = situation.dataset.all_rows
    if rows <= LARGE_DATA_ROWS:
        return None
    return True, (
        f"{rows:,} rows are more than {LARGE_DATA_ROWS:,}, with {_tokens(situation)} to learn from: full fine-tuning, "
        f"and it fits"
    )


def _several_gpus(situation: Situation) -> tuple[bool, str] | None:
    world_size = situation.fitting[Method.FULL].setup.world_size
    if world_size < 2:
        return None
    return True, (
        f"full fine-tuning fits on {world_size} GPUs, and {situation.dataset.all_rows:,} rows with "
        f"{_tokens(situation)} to learn from are worth it"
    )


def _quality(situation: Situation) -> tuple[bool, str] | None:
    if situation.spec.goal is not Goal.QUALITY:
        return None
    return True, "goal quality: full fine-tuning fits, and nothing learns more"


def _adapter_suffices(situation: Situation) -> tuple[bool, str] | None:
    rows = situation.dataset.all_rows
    return False, f"an adapter suffices for {rows:,} rows on one device; goal quality would train everything"


FULL_OR_ADAPTER: tuple[tuple[PlanRule, Rule], ...] = (
    (PlanRule.INFORMATION, _information),
    (PlanRule.SMALL_DATA, _small_data),
    (PlanRule.LARGE_DATA, _large_data),
    (PlanRule.SEVERAL_GPUS, _several_gpus),
    (PlanRule.QUALITY, _quality),
    (PlanRule.ADAPTER_SUFFICES, _adapter_suffices),
)


def _tokens(situation: Situation) -> str:
    return f"{count(situation.dataset.supervised_tokens)} tokens"


def _unfit(situation: Situation) -> str:
    return next(NAMES[method] for method in (Method.QLORA, Method.LORA) if method not in situation.fitting)


def _device_time(situation: Situation) -> str:
    return "GPU time" if situation.gpus else "processor time"


def _rejection(other: Candidate, chosen: Candidate, *, verdicts: list[Verdict], situation: Situation) -> str:
    """The rule that rejected this method, not the one that chose another."""
    was_asked_for = situation.spec.method != "auto"
    if not other.fits or (chosen.has_margin and not other.has_margin and not was_asked_for):
        return sentence(f"{shortage(other)}{_what_4_bits_leave(other, situation)}.")
    if other.method not in situation.fitting and not was_asked_for:
        spent = instead_of(other.time.seconds, chosen.time.seconds)
        return sentence(f"{name_of(other)} fits only with its optimizer in host memory, which takes {spent}.")
    numbers = sentence(f"{name_of(other)} fits too ({_numbers(other, chosen, situation)})")
    return f"{numbers}, but {_rule_against(other, chosen, verdicts=verdicts, situation=situation)}."


def _what_4_bits_leave(other: Candidate, situation: Situation) -> str:
    """Why a method that is known for small memory needs as much as any: said of mixtures of experts."""
    has_experts = any(linear.role == "expert" for linear in situation.shape.linears)
    return ": 4 bits do not reach the experts" if other.method is Method.QLORA and has_experts else ""


def _rule_against(other: Candidate, chosen: Candidate, *, verdicts: list[Verdict], situation: Situation) -> str:
    if verdicts[0].rule == PlanRule.FORCED_METHOD:
        return "was not asked for"
    if verdicts[0].rule == PlanRule.GOAL:
        goal = situation.spec.goal
        spent, least = _expense_of(other, goal), _expense_of(chosen, goal)
        hardly = ", if by little" if duration(spent) == duration(least) else ""
        return f"goal {goal} takes the {'least' if goal is Goal.COST else 'soonest'}{hardly}"
    if Method.FULL in (other.method, chosen.method):
        return verdicts[0].why
    if chosen.method is Method.QLORA:
        return f"its weights would be shared out over {other.setup.world_size} GPUs and gathered for every layer"
    saved = chosen.peak_bytes - other.peak_bytes
    rounded = f"its 4-bit weights are rounded, and {chosen.setup.precision} ones fit"
    return f"{rounded}; it would save {gib(saved)}" if saved > WORTH_SAVING * chosen.peak_bytes else rounded


def _numbers(other: Candidate, chosen: Candidate, situation: Situation) -> str:
    goal = situation.spec.goal
    times = against(_expense_of(other, goal), _expense_of(chosen, goal))
    unit = f" of {_device_time(situation)}" if goal is Goal.COST else ""
    only_shown = _expense_of(other, goal) < _expense_of(chosen, goal) and other.expense(goal) > chosen.expense(goal)
    without = " without sample answers" if only_shown else ""
    return f"{gib(other.peak_bytes)}, {times}{unit}{without}"


def _expense_of(candidate: Candidate, goal: Goal) -> float:
    """As it is told, with sample answers."""
    return candidate.device_seconds if goal is Goal.COST else candidate.time.seconds


def _refuse(candidates: Mapping[Method, Candidate], *, methods: list[Method], rule: PlanRule) -> Decision:
    """The alternatives are in the order of the reasons: what misses least comes first."""
    texts = [_refusal(candidates[method]) for method in methods]
    reasons = tuple(Reason(rule=rule, text=text) for text in texts)
    alternatives = tuple(
        Alternative(
            method=method,
            fits=candidates[method].fits,
            peak_bytes=candidates[method].peak_bytes,
            rejected_because=_why_not(candidates[method]),
        )
        for method in dict.fromkeys((*methods, *candidates))
    )
    return Decision(None, reasons, alternatives)


def _why_not(candidate: Candidate) -> str:
    if candidate.fits:
        name, peak = NAMES[candidate.method], gib(candidate.peak_bytes)
        return sentence(f"{name} would fit with {peak}, but was not asked for.")
    return sentence(f"{shortage(candidate)}.")


def _nearest_first(candidates: Mapping[Method, Candidate]) -> list[Method]:
    """By what they need; what cannot run at all comes last."""
    return sorted(
        candidates, key=lambda method: (candidates[method].blocked is not None, candidates[method].peak_bytes)
    )


def _refusal(candidate: Candidate) -> str:
    return sentence(f"{shortage(candidate, smallest=True)}.")
