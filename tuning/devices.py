"""Which of a machine's GPUs a run takes: devices that are equal, and of those the ones with most free memory."""

from tuning.gpus import rates_of
from tuning.hardware import Gpu, HardwareProfile
from tuning.plan import Plan


def equal_devices(hardware: HardwareProfile) -> tuple[HardwareProfile, ...]:
    """The machine once for each kind of GPU in it, the kinds that compute most together first.

    Data-parallel steps wait for the slowest device, and the least memory of all decides what fits, so unlike GPUs are
    never mixed.
    """
    kinds: dict[tuple[str, int], list[Gpu]] = {}
    for gpu in hardware.gpus:
        kinds.setdefault((gpu.name, gpu.memory_total_bytes), []).append(gpu)
    if len(kinds) < 2:
        return (hardware,)
    ordered = sorted(kinds.values(), key=_strength, reverse=True)
    return tuple(hardware.model_copy(update={"gpus": tuple(gpus)}) for gpus in ordered)


def richest(gpus: tuple[Gpu, ...], number: int) -> tuple[Gpu, ...]:
    """The `number` GPUs with most free memory."""
    return tuple(sorted(gpus, key=lambda gpu: (-gpu.memory_free_bytes, gpu.index))[:number])


def devices_of(plan: Plan, hardware: HardwareProfile) -> tuple[Gpu, ...]:
    """The GPUs that the plan was made for on this machine, in the order of their index; none for a plan on a CPU."""
    if plan.device == "cpu":
        return ()
    kinds = equal_devices(hardware)
    for kind in sorted(kinds, key=lambda kind: kind.gpus[0].name != plan.device_name):
        chosen = richest(kind.gpus, plan.world_size)
        if len(chosen) == plan.world_size and chosen[-1].memory_free_bytes >= plan.memory.total_bytes:
            return _by_index(chosen)
    return _by_index(richest(hardware.gpus, plan.world_size))


def _strength(gpus: list[Gpu]) -> tuple[float, int]:
    return len(gpus) * rates_of(gpus[0]).matmul_tflops, gpus[0].memory_total_bytes


def _by_index(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    return tuple(sorted(gpus, key=lambda gpu: gpu.index))
