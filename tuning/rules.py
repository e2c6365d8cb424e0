"""The ordered, named rules that pick a method among the plans that fit, and say what lost by which number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tuning.candidates import Candidate
from tuning.hardware import HardwareProfile
from tuning.job import DatasetFacts, Goal, JobSpec, Method
from tuning.plan import Alternative, Reason
from tuning.units import duration, gib

NAMES = {Method.FULL: "Full fine-tuning", Method.LORA: "LoRA", Method.QLORA: "QLoRA"}
SMALL_DATA_ROWS = 10_000  # adapters match full fine-tuning here (LoRA Without Regret, 2025); the guide says 5K
SMALL_DATA_ROWS_FOR_QUALITY = 5_000
LARGE_DATA_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Decision:
    """The method, or None when nothing fits."""

    method: Method | None
    reasons: tuple[Reason, ...]
    alternatives: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a rule looks at."""

    fitting: Mapping[Method, Candidate]
    spec: JobSpec
    dataset: DatasetFacts
    gpus: int


Rule = Callable[[Situation], tuple[Method, str] | None]


def decide(
    candidates: Mapping[Method, Candidate], *, spec: JobSpec, dataset: DatasetFacts, hardware: HardwareProfile
) -> Decision:
    """Apply the rules in order; the first that speaks decides."""
    fitting = {method: candidate for method, candidate in candidates.items() if candidate.fits}
    if spec.method == "auto" and len(fitting) > 1 and _offloads(candidates[Method.FULL]):
        fitting.pop(Method.FULL, None)  # ten times slower than any other way that fits
    where = hardware.gpus[0].name if hardware.gpus else "machine"
    if spec.method != "auto" and spec.method not in fitting:
        return _refuse(candidates, methods=[spec.method], where=where, rule="forced-method")
    if not fitting:
        return _refuse(candidates, methods=list(Method), where=where, rule="nothing-fits")
    situation = Situation(fitting, spec, dataset, len(hardware.gpus))
    for name, rule in RULES:
        verdict = rule(situation)
        if verdict is not None:
            method, why = verdict
            reason = Reason(rule=name, text=_with_lost_numbers(why, method, candidates, where=where))
            return Decision(method, (reason,), _alternatives(candidates, method, why, where=where))
    raise AssertionError("the last rule always decides")


def _forced(situation: Situation) -> tuple[Method, str] | None:
    if situation.spec.method == "auto":
        return None
    return situation.spec.method, f"{NAMES[situation.spec.method]} was asked for"


def _only_one_fits(situation: Situation) -> tuple[Method, str] | None:
    if len(situation.fitting) > 1:
        return None
    method = next(iter(situation.fitting))
    return method, f"{NAMES[method]} is the only way that fits"


def _quickest(situation: Situation) -> tuple[Method, str] | None:
    if situation.spec.goal not in (Goal.SPEED, Goal.COST):
        return None
    cost = situation.spec.goal is Goal.COST

    def expense(method: Method) -> float:
        candidate = situation.fitting[method]
        return candidate.time.seconds * (candidate.setup.world_size if cost else 1)

    method = min(situation.fitting, key=lambda method: (expense(method), method is Method.QLORA))
    unit = "of GPU time, the least" if cost else ", the soonest"
    return (
        method,
        f"goal {situation.spec.goal}: {NAMES[method]} needs {duration(expense(method))}{unit} of all that fit",
    )


def _small_data(situation: Situation) -> tuple[Method, str] | None:
    limit = SMALL_DATA_ROWS_FOR_QUALITY if situation.spec.goal is Goal.QUALITY else SMALL_DATA_ROWS
    if situation.dataset.rows >= limit:
        return None
    method = _best_adapter(situation)
    if method is None:
        return None
    return method, f"{situation.dataset.rows:,} rows are fewer than {limit:,}, where adapters reach full quality"


def _large_data(situation: Situation) -> tuple[Method, str] | None:
    if situation.dataset.rows <= LARGE_DATA_ROWS or Method.FULL not in situation.fitting:
        return None
    return Method.FULL, (
        f"{situation.dataset.rows:,} rows are more than {LARGE_DATA_ROWS:,} and hold more than an adapter does: "
        f"full fine-tuning, and it fits"
    )


def _several_gpus(situation: Situation) -> tuple[Method, str] | None:
    if situation.gpus < 2 or Method.FULL not in situation.fitting:
        return None
    return Method.FULL, f"{situation.gpus} GPUs hold full fine-tuning and {situation.dataset.rows:,} rows justify it"


def _quality(situation: Situation) -> tuple[Method, str] | None:
    if situation.spec.goal is not Goal.QUALITY or Method.FULL not in situation.fitting:
        return None
    return Method.FULL, "goal quality: full fine-tuning fits and is the best there is"


def _adapter(situation: Situation) -> tuple[Method, str] | None:
    method = _best_adapter(situation)
    if method is None:
        return None
    return method, f"{NAMES[method]} fits, so nothing heavier or coarser is needed"


def _what_fits(situation: Situation) -> tuple[Method, str] | None:
    method = next(iter(situation.fitting))
    return method, f"{NAMES[method]} fits"


RULES: tuple[tuple[str, Rule], ...] = (
    ("forced-method", _forced),
    ("only-one-fits", _only_one_fits),
    ("goal", _quickest),
    ("small-data", _small_data),
    ("large-data", _large_data),
    ("several-gpus", _several_gpus),
    ("quality", _quality),
    ("bf16-before-4-bit", _adapter),
    ("what-fits", _what_fits),
)


def _best_adapter(situation: Situation) -> Method | None:
    """bf16 LoRA whenever it fits: 4-bit weights cost speed and buy only memory."""
    return next((method for method in (Method.LORA, Method.QLORA) if method in situation.fitting), None)


def _with_lost_numbers(why: str, method: Method, candidates: Mapping[Method, Candidate], *, where: str) -> str:
    """`LoRA bf16 needs 27.4 GiB, 22.1 GiB are free on this A10G, so QLoRA.`"""
    lost = candidates[Method.LORA]
    if method is Method.QLORA and not lost.fits:
        return f"{_shortage(lost, where)}, so {NAMES[method]}. {why[0].upper()}{why[1:]}."
    return f"{why[0].upper()}{why[1:]}."


def _alternatives(
    candidates: Mapping[Method, Candidate], chosen: Method, why: str, *, where: str
) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(
            method=method,
            fits=candidate.fits,
            peak_bytes=candidate.memory.total_bytes,
            rejected_because=_rejection(candidate, candidates[chosen], why, where),
        )
        for method, candidate in candidates.items()
        if method is not chosen
    )


def _offloads(candidate: Candidate) -> bool:
    return candidate.setup.offload_optimizer


def _rejection(candidate: Candidate, chosen: Candidate, why: str, where: str) -> str:
    if not candidate.fits:
        return f"{_shortage(candidate, where)}."
    if _offloads(candidate):
        spent = duration(candidate.time.seconds)
        return f"{_name(candidate)} fits only with its optimizer in host memory, which takes {spent}."
    needs = f"{_name(candidate)} fits too ({gib(candidate.memory.total_bytes)}"
    times = f"{duration(candidate.time.seconds)} against {duration(chosen.time.seconds)}"
    return f"{needs}, {times}), but {why}."


def _name(candidate: Candidate) -> str:
    """With the precision where it tells LoRA from QLoRA, and what is done to its weights."""
    precision = f" {candidate.setup.precision}" if candidate.method is Method.LORA else ""
    shared = f" with its weights shared out over {candidate.setup.world_size} GPUs"
    return f"{NAMES[candidate.method]}{precision}{shared if candidate.setup.sharded_base else ''}"


def _shortage(candidate: Candidate, where: str) -> str:
    if candidate.blocked:
        return candidate.blocked
    memory = candidate.memory
    needed, free = gib(memory.total_bytes), gib(memory.budget_bytes)
    return f"{_name(candidate)} needs {needed}, {free} are free on this {where}"


def _refuse(candidates: Mapping[Method, Candidate], *, methods: list[Method], where: str, rule: str) -> Decision:
    texts = [f"{_shortage(candidates[method], where)}, even with the smallest settings." for method in methods]
    reasons = tuple(Reason(rule=rule, text=text) for text in texts)
    alternatives = tuple(
        Alternative(
            method=method,
            fits=candidate.fits,
            peak_bytes=candidate.memory.total_bytes,
            rejected_because=(
                f"{NAMES[method]} would fit with {gib(candidate.memory.total_bytes)}, but was not asked for."
                if candidate.fits
                else f"{_shortage(candidate, where)}."
            ),
        )
        for method, candidate in candidates.items()
    )
    return Decision(None, reasons, alternatives)
