"""Beside the plan: the ends of what the machine could do, and what a slightly larger machine would change."""

from collections.abc import Callable, Mapping, Sequence

from tunesmith.tuning.hardware import Gpu, HardwareProfile
from tunesmith.tuning.hardware_facts.devices import most_free_memory
from tunesmith.tuning.hardware_facts.gpus import rates_of
from tunesmith.tuning.job import JobSpec
from tunesmith.tuning.plan import Change, Way, Ways
from tunesmith.tuning.recipe.hyperparameters import NAMES
from tunesmith.tuning.search.candidate import Candidate
from tunesmith.tuning.search.candidates import Search
from tunesmith.tuning.values.units import GIB, duration, instead_of
from tunesmith.tuning.words import Goal, Method

MORE_MEMORY_BYTES = 10 * GIB
WORTH_SAYING = 0.98  # of the duration: a change of less is none


def ways_of(chosen: Candidate, searches: Mapping[Method, Search], *, spec: JobSpec) -> Ways:
    """Quickest, cheapest and safest of the methods that may be used, with their margins; else the plan itself."""
    own = way_of(chosen)
    allowed = [search for method, search in searches.items() if spec.method in ("auto", method) and not search.blocked]
    quick = [search.way(search.quickest) for search in allowed if search.quickest is not None]
    safe = [search.way(search.safest) for search in allowed if search.quickest is not None]
    return Ways(
        quickest=min((own, *quick), key=_time_peak_and_gpus) if chosen.has_margin else own,
        cheapest=_cheapest(own, allowed) if chosen.has_margin else own,
        safest=min((own, *safe), key=lambda way: (round(way.out_of_memory_probability, 3), way.working_seconds)),
    )


def way_of(candidate: Candidate) -> Way:
    """A candidate in short."""
    setup = candidate.setup
    return Way(
        method=setup.method,
        world_size=setup.world_size,
        zero_stage=setup.zero_stage,
        sharded_base=setup.sharded_base,
        offload_optimizer=setup.offload_optimizer,
        optimizer=setup.optimizer,
        activation_checkpointing=setup.checkpointing,
        tokens_per_micro_step=setup.tokens_per_micro_step,
        seconds=candidate.time.seconds,
        device_seconds=candidate.device_seconds,
        peak_bytes=candidate.memory.total_bytes,
        out_of_memory_probability=candidate.memory.out_of_memory_probability or 0.0,
        sample_seconds=candidate.time.sample_seconds,
    )


def changes_of(
    chosen: Candidate, hardware: HardwareProfile, *, goal: Goal, choose: Callable[[HardwareProfile], Candidate | None]
) -> tuple[Change, ...]:
    """What `choose` would take with one more GPU of the plan's kind, and with 10 GiB more on each device."""
    found = []
    if hardware.gpus:
        kind = most_free_memory(chosen.place.hardware.gpus, 1)[0]
        index = max(gpu.index for gpu in hardware.gpus) + 1
        more = hardware.model_copy(update={"gpus": (*hardware.gpus, kind.model_copy(update={"index": index}))})
        if _has_room_for(kind, hardware) and (one_more := choose(more)) is not None:
            start = f"One more {kind.name}"
            found.append(
                Change(machine="one-more-gpu", way=way_of(one_more), text=_told(start, chosen, one_more, goal=goal))
            )
    if (roomier := choose(_with_more_memory(hardware))) is not None:
        start = f"{MORE_MEMORY_BYTES // GIB} GiB more {'on each GPU' if len(hardware.gpus) > 1 else 'memory'}"
        found.append(Change(machine="ten-gib-more", way=way_of(roomier), text=_told(start, chosen, roomier, goal=goal)))
    return tuple(found)


def _cheapest(own: Way, searches: Sequence[Search]) -> Way:
    """No method is searched whose every layout takes more than another method's cheapest way."""
    best = own
    for search in searches:
        if search.least_device_seconds > _cost_and_peak(best)[0] or search.cheapest is None:
            continue
        best = min(best, search.way(search.cheapest), key=_cost_and_peak)
    return best


def _time_peak_and_gpus(way: Way) -> tuple[float, int, int]:
    return way.working_seconds, way.peak_bytes, way.world_size


def _cost_and_peak(way: Way) -> tuple[float, int]:
    return way.working_seconds * way.world_size, way.peak_bytes


def _has_room_for(kind: Gpu, hardware: HardwareProfile) -> bool:
    """Whether such a machine is sold with one more: laptops, slices and boards for eight are full."""
    there = sum((gpu.name, gpu.machine) == (kind.name, kind.machine) for gpu in hardware.gpus)
    return not kind.mig and there < rates_of(kind).most_in_a_machine


def _with_more_memory(hardware: HardwareProfile) -> HardwareProfile:
    if not hardware.gpus:
        cpu = hardware.cpu.model_copy(update=_more(hardware.cpu.memory_total_bytes, hardware.cpu.memory_free_bytes))
        return hardware.model_copy(update={"cpu": cpu})
    gpus = (gpu.model_copy(update=_more(gpu.memory_total_bytes, gpu.memory_free_bytes)) for gpu in hardware.gpus)
    return hardware.model_copy(update={"gpus": tuple(gpus)})


def _more(total_bytes: int, free_bytes: int) -> dict[str, int]:
    return {
        "memory_total_bytes": total_bytes + MORE_MEMORY_BYTES,
        "memory_free_bytes": free_bytes + MORE_MEMORY_BYTES,
    }


def _told(start: str, before: Candidate, after: Candidate, *, goal: Goal) -> str:
    """`One more A10G: QLoRA on 2 GPUs, 1.7 h instead of 3.2 h.` For goal cost it is that of all devices."""
    method = after.method is not before.method
    spent, spent_before = _spent(after, goal), _spent(before, goal)
    quicker = after.expense(goal) < WORTH_SAYING * before.expense(goal)
    slower = after.expense(goal) > before.expense(goal) / (1 if method else WORTH_SAYING)
    reads_alike = duration(spent) == duration(spent_before)
    if not method and (reads_alike or not (quicker or slower)):
        safer = before.memory.out_of_memory_probability or 0.0
        left = after.memory.out_of_memory_probability or 0.0
        if safer - left > 0.005:
            return f"{start}: as quick, and the risk of running out of memory falls from {safer:.1%} to {left:.1%}."
        return f"{start} would change nothing worth it."
    place = f" on {after.setup.world_size} GPUs" if after.setup.world_size > 1 else ""
    name = NAMES[after.method] if method else "the same method"
    instead = _instead(before, after, goal=goal) + (" of all devices together" if goal is Goal.COST else "")
    if not slower:
        return f"{start}: {name}{place}, {instead}."
    gained = "" if method else _gained(before, after)
    return f"{start}: {name}{place}{gained} would be taken, though it needs {instead}."


def _instead(before: Candidate, after: Candidate, *, goal: Goal) -> str:
    """What is told elsewhere, or, where that is the other way round, what was compared."""
    spent, spent_before = _spent(after, goal), _spent(before, goal)
    if (spent < spent_before) == (after.expense(goal) < before.expense(goal)):
        return instead_of(spent, spent_before)
    return f"{instead_of(after.expense(goal), before.expense(goal))} without sample answers"


def _gained(before: Candidate, after: Candidate) -> str:
    """What the same method is worth more time for."""
    if after.has_margin and not before.has_margin:
        return " with a margin"
    if before.setup.optimizer != after.setup.optimizer:
        return " with moments of 32 bits"
    return " with a whole copy on each GPU"


def _spent(candidate: Candidate, goal: Goal) -> float:
    return candidate.device_seconds if goal is Goal.COST else candidate.time.seconds
