"""What to change when nothing fits: the longest rows that would, as the next step for the user."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

from tunesmith.tuning.datasets.lengths import share_within
from tunesmith.tuning.job import DatasetFacts, JobSpec
from tunesmith.tuning.models.linears import adapts_experts
from tunesmith.tuning.plan import PlanRule, Reason
from tunesmith.tuning.planner.rules import name_of, sentence
from tunesmith.tuning.recipe.hyperparameters import NAMES
from tunesmith.tuning.search.candidate import Candidate
from tunesmith.tuning.search.candidates import LONGEST_RUN_SECONDS
from tunesmith.tuning.search.layouts import keeping_the_base_whole
from tunesmith.tuning.search.pricing import Recipe
from tunesmith.tuning.values.units import duration, gib
from tunesmith.tuning.words import Method

SHORTEST_WORTH_OFFERING = 128
ADAPTERS = (Method.LORA, Method.QLORA)
SMALLER_RANKS = (64, 32, 16, 8)


class Asking(NamedTuple):
    """What can be asked beside the job itself."""

    recipe_of: Callable[[JobSpec], Recipe]
    """Of another job."""
    retry: Callable[[Recipe, Method], Candidate]
    """For it on the machine."""
    may_fit: Callable[[Recipe, Method], bool]
    """Whether it has room on the machine, which takes less to find out than how it would run."""
    on_more_gpus: Callable[[Method, int], Candidate | None]
    """For this job on so many GPUs like its own, where it can have them and has room there."""


def suggest_fit(candidates: dict[Method, Candidate], *, spec: JobSpec, dataset: DatasetFacts, asking: Asking) -> Reason:
    """Shorter rows that fit, else how many GPUs of the kind, else how much memory the least demanding way wants."""
    methods = [spec.method] if spec.method != "auto" else [*ADAPTERS]
    if any(candidate.time.seconds > LONGEST_RUN_SECONDS for candidate in candidates.values() if candidate.blocked):
        text = "Fewer rows or epochs, a smaller model or a faster machine would bring it below a year."
        return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=text)
    lighter = (
        _with_a_base_shared_out(spec, methods, asking)
        or _without_float8_base(spec, candidates, asking)
        or _without_pissa(spec, methods, asking)
        or _with_a_smaller_rank(spec, [method for method in methods if method in ADAPTERS], candidates, asking)
    )
    if lighter:
        return lighter
    length = min(candidate.max_sequence_length for candidate in candidates.values())

    @cache
    def cut_to(shorter: int) -> Recipe:
        return asking.recipe_of(spec.model_copy(update={"max_seq_length": shorter}))

    def fitting(shorter: int) -> Candidate | None:
        tried = (asking.retry(cut_to(shorter), method) for method in methods)
        return next((candidate for candidate in tried if candidate.fits), None)

    def has_room(shorter: int) -> bool:
        return any(asking.may_fit(cut_to(shorter), method) for method in methods)

    lengths = _shorter_lengths(length)
    longest = bisect_left(lengths, True, key=has_room)
    if longest < len(lengths) and (found := fitting(lengths[longest])):
        text = f"{name_of(found)} fits: {_peak_of(found)}"
        kept = _kept(dataset, lengths[longest])
        return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=f"With max_seq_length {lengths[longest]:,} {text}.{kept}")
    possible = [candidates[method] for method in methods if candidates[method].blocked is None]
    if not possible:
        text = "Install or leave out what the reasons above name, or choose another method."
        return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=text)
    if more := _more_gpus(methods, asking.on_more_gpus):
        return more
    least = min(possible, key=lambda candidate: candidate.peak_bytes)
    one = "a GPU" if least.setup.device == "cuda" else "a host"
    is_shared = least.setup.world_size > 1 and (least.setup.zero_stage > 0 or least.setup.sharded_base)
    devices = f"{least.setup.world_size} GPUs, each" if is_shared else one
    wanted = gib(least.peak_bytes + least.margin_bytes)
    name = f"{NAMES[least.method]}, its weights shared out," if least.setup.sharded_base else name_of(least)
    text = sentence(f"{name} would fit on {devices} with {wanted} free; shorter rows do not help.")
    return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=text)


def other_method(candidates: Mapping[Method, Candidate], *, spec: JobSpec) -> tuple[Reason, ...]:
    """Of a method that was asked for and does not fit: the first other one that does."""
    if spec.method == "auto":
        return ()
    for method in (Method.LORA, Method.QLORA, Method.FULL):
        found = candidates[method]
        if found.has_margin and not found.setup.offload_optimizer:
            text = f"With method {method} instead it fits here: {_peak_of(found)}, {duration(found.time.seconds)}."
            return (Reason(rule=PlanRule.WHAT_WOULD_FIT, text=text),)
    return ()


def _with_a_base_shared_out(spec: JobSpec, methods: list[Method], asking: Asking) -> Reason | None:
    """What the job asks for that keeps the base whole on each GPU, where it fits without."""
    names = " and ".join(keeping_the_base_whole(spec))
    if not names:
        return None
    targets = "all-linear" if adapts_experts(spec.lora.target_modules) else spec.lora.target_modules
    plain = {"use_dora": False, "init": "default", "float8_base": False, "target_modules": targets}
    lora = spec.lora.model_copy(update=plain)
    lighter = asking.recipe_of(spec.model_copy(update={"merge": False, "lora": lora}))
    for method in methods:
        found = asking.retry(lighter, method)
        if found.fits and (found.setup.sharded_base or found.setup.zero_stage == 3):
            return Reason(
                rule=PlanRule.WHAT_WOULD_FIT,
                text=f"Without {names}, for which every GPU would need the whole base, {NAMES[method]} fits: the base "
                f"is shared out over {found.setup.world_size} GPUs, {_peak_of(found)} on each.",
            )
    return None


def _without_float8_base(spec: JobSpec, candidates: Mapping[Method, Candidate], asking: Asking) -> Reason | None:
    """Of a machine that cannot multiply in 8 bits: that leaving it out is the way."""
    if not spec.lora.float8_base or candidates[Method.LORA].blocked is None:
        return None
    plain = asking.recipe_of(spec.model_copy(update={"lora": spec.lora.model_copy(update={"float8_base": False})}))
    found = next((found for method in ADAPTERS if (found := asking.retry(plain, method)).fits), None)
    fits = "" if found is None else f" {name_of(found)} fits: {_peak_of(found)}"
    text = f"Without float8_base{fits}." if fits else "Leave float8_base out."
    return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=text)


def _without_pissa(spec: JobSpec, methods: list[Method], asking: Asking) -> Reason | None:
    """Of a job whose weights fit in 4 bits alone, which an adapter that starts from them rules out."""
    if spec.lora.init != "pissa":
        return None
    plain = asking.recipe_of(spec.model_copy(update={"lora": spec.lora.model_copy(update={"init": "default"})}))
    found = next((found for method in methods if (found := asking.retry(plain, method)).fits), None)
    if found is None:
        return None
    return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=f"Without init pissa {name_of(found)} fits: {_peak_of(found)}.")


def _with_a_smaller_rank(
    spec: JobSpec, methods: list[Method], candidates: Mapping[Method, Candidate], asking: Asking
) -> Reason | None:
    """The largest smaller adapter that fits: it costs less of what is learned than cut rows do."""
    if spec.lora.rank != "auto":
        return None
    for rank in SMALLER_RANKS:
        tried = [method for method in methods if rank < candidates[method].lora.rank]
        if not tried:
            continue
        smaller = asking.recipe_of(spec.model_copy(update={"lora": spec.lora.model_copy(update={"rank": rank})}))
        for method in tried:
            if not asking.may_fit(smaller, method):
                continue
            if (found := asking.retry(smaller, method)).fits:
                text = f"With rank {rank} in place of {candidates[method].lora.rank} {name_of(found)} fits"
                return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=f"{text}: {_peak_of(found)}.")
    return None


def _peak_of(found: Candidate) -> str:
    return f"{gib(found.peak_bytes)} of {gib(found.budget_bytes)}"


def _more_gpus(methods: list[Method], on_more_gpus: Callable[[Method, int], Candidate | None]) -> Reason | None:
    for number in (2, 3, 4, 6, 8):
        for method in methods:
            found = on_more_gpus(method, number)
            if found is not None and found.fits:
                text = f"On {number} x {found.place.name} {name_of(found)} fits: {_peak_of(found)} on each."
                return Reason(rule=PlanRule.WHAT_WOULD_FIT, text=text)
    return None


def _kept(dataset: DatasetFacts, tokens: int) -> str:
    """How many rows that length leaves whole."""
    share = share_within(dataset.row_length_counts, tokens)
    estimated = "" if dataset.tokens_are_exact else ", as far as their length is known"
    return " Longer rows are cut." if share is None else f" {share:.1%} of the rows are no longer than that{estimated}."


def _shorter_lengths(length: int) -> list[int]:
    """Four between each power of two and the next, longest first."""
    powers = (SHORTEST_WORTH_OFFERING << doubled for doubled in range(length.bit_length()))
    lengths = (power // 4 * quarters for power in powers for quarters in range(4, 8))
    return sorted((shorter for shorter in lengths if shorter < length), reverse=True)
