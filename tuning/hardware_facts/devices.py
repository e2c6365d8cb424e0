"""Which of a machine's GPUs a run takes: devices that are equal, and of those the ones with most free memory."""

from tunesmith.tuning.hardware import Gpu, HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import rates_of
from tunesmith.tuning.plan import Plan


def equal_devices(hardware: HardwareProfile) -> tuple[HardwareProfile, ...]:
    """The machine once for each kind of GPU in it, the kinds that compute most together first.

    Data-parallel steps wait for the slowest device, and the least memory of all decides what fits, so unlike GPUs are
    never mixed. Nor are those of several machines, for a run stays within one, nor slices of a GPU, which cannot reach
    each other: of equal slices only the one with most free memory is offered.
    """
    kinds: dict[tuple[str, int, int], list[Gpu]] = {}
    for gpu in hardware.gpus:
        kinds.setdefault((gpu.name, gpu.memory_total_bytes, gpu.machine), []).append(gpu)
    usable = [list(most_free_memory(tuple(gpus), 1)) if gpus[0].mig else gpus for gpus in kinds.values()]
    if not usable or (len(usable) == 1 and len(usable[0]) == len(hardware.gpus)):
        return (hardware,)
    ordered = sorted(usable, key=_strength, reverse=True)
    return tuple(hardware.model_copy(update={"gpus": tuple(gpus)}) for gpus in ordered)


def why_apart(chosen: tuple[Gpu, ...], *, of: tuple[Gpu, ...]) -> str:
    """Why only these of a machine's GPUs are used, when some were left out for what they are."""
    name, number = rates_of(chosen[0]).name, len(chosen)
    if chosen[0].mig:
        return f"One slice ({name}) of {len(of)} devices: slices of GPUs cannot be joined."
    machines = {gpu.machine for gpu in of}
    if len(machines) > 1 and len({(gpu.name, gpu.memory_total_bytes) for gpu in of}) == 1:
        return f"{len(of):,} GPUs are {len(machines):,} machines, and a run stays within one: {number} x {name}."
    return f"Of {len(of)} unlike GPUs {number} x {chosen[0].name}: the slowest would hold up the others."


def with_gpus(hardware: HardwareProfile, number: int) -> HardwareProfile | None:
    """So many GPUs like the strongest kind here, in one machine; None where there are as many, none, or slices."""
    kind = equal_devices(hardware)[0].gpus
    if not kind or kind[0].mig or number <= len(kind):
        return None
    best = most_free_memory(kind, 1)[0]
    return hardware.model_copy(
        update={"gpus": tuple(best.model_copy(update={"index": index}) for index in range(number))}
    )


def most_free_memory(gpus: tuple[Gpu, ...], number: int) -> tuple[Gpu, ...]:
    """The `number` GPUs with most free memory."""
    return tuple(sorted(gpus, key=lambda gpu: (-gpu.memory_free_bytes, gpu.index))[:number])


def devices_of(plan: Plan, hardware: HardwareProfile) -> tuple[Gpu, ...]:
    """The GPUs that the plan was made for on this machine, in the order of their index; none for a plan on a CPU."""
    if plan.device == "cpu":
        return ()
    kinds = equal_devices(hardware)
    for kind in sorted(kinds, key=lambda kind: kind.gpus[0].name != plan.device_name):
        chosen = most_free_memory(kind.gpus, plan.world_size)
        if len(chosen) == plan.world_size and chosen[-1].memory_free_bytes >= plan.memory.total_bytes:
            return _by_index(chosen)
    return _by_index(most_free_memory(hardware.gpus, plan.world_size))


def _strength(gpus: list[Gpu]) -> tuple[float, int]:
    return len(gpus) * rates_of(gpus[0]).reached_tflops, gpus[0].memory_total_bytes


def _by_index(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))
