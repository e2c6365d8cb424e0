"""Numbers that no formula gives: assumed ones to start with, and a worker's own measurements in their place."""

from dataclasses import dataclass, replace

from tunesmith.tuning.hardware import HardwareProfile, MachineConstants
from tunesmith.tuning.plan import PlanRule, Reason
from tunesmith.tuning.values.units import GIB, gib

# Kernels compiled for rows of many lengths stay in memory: runs of a model under a million parameters peaked at 516 MiB
# in bf16 and 380 in fp32, where a process that has multiplied two matrices holds 370.
CPU_KERNELS_BYTES = 128 * 1024**2


@dataclass(frozen=True, slots=True)
class Constants:
    """What the planner reckons with; the defaults are assumptions."""

    cuda_context_bytes: int = int(0.6 * GIB)  # context and library handles, outside the allocator
    cuda_workspace_bytes: int = 40 * 1024**2  # cuBLAS, one handle and stream
    cpu_process_bytes: int = int(0.6 * GIB)  # interpreter, torch and transformers, measured resident
    slack: float = 0.03  # what the allocator holds beyond what is asked, with expandable segments
    # Resident memory of CPU steps of a 135M model grew by 0.60 MiB a token where autograd saves 0.40: kernels' scratch
    # and holes in the heap come to half as much again.
    cpu_activation_slack: float = 0.5
    # Large products a second on one core of an EPYC with AVX-512 BF16 and no AMX (`worker.train.profiling.rates`).
    cpu_bf16_flops_per_core: float = 210e9
    cpu_fp32_flops_per_core: float = 92e9
    unknown_gpu_tflops: float | None = None  # of a GPU that is in no table


START_CONSTANTS = Constants()


def constants_of(hardware: HardwareProfile) -> Constants:
    """The worker's own numbers wherever it has measured them."""
    own = hardware.constants
    if own is None:
        return START_CONSTANTS
    if hardware.gpus:
        return _on_gpu(own)
    return replace(
        START_CONSTANTS,
        cpu_process_bytes=own.process_bytes + CPU_KERNELS_BYTES,
        cpu_bf16_flops_per_core=own.matmul_16bit_flops_per_second / own.threads,
        cpu_fp32_flops_per_core=own.matmul_fp32_flops_per_second / own.threads,
    )


def explain_constants(hardware: HardwareProfile, *, precision: str) -> Reason:
    """Which numbers of a prediction are this worker's own, and which are assumed."""
    own, used = hardware.constants, constants_of(hardware)
    rate = used.cpu_fp32_flops_per_core if precision == "fp32" else used.cpu_bf16_flops_per_core
    if hardware.gpus:
        size = gib(used.cuda_context_bytes + used.cuda_workspace_bytes)
        numbers = f"{size} of GPU context and workspace, {used.slack:.0%} of allocator slack"
        is_measured = own is not None and own.cuda_context_bytes is not None
    else:
        numbers = f"{gib(used.cpu_process_bytes)} for the process, {rate / 1e9:,.0f} GFLOP/s on each core"
        is_measured = own is not None
    if is_measured:
        return Reason(rule=PlanRule.CONSTANTS, text=f"Measured on this worker: {numbers}.")
    whose = "" if hardware.gpus else ", which processors with AVX-512 reach and others do not"
    text = f"Assumed, because no worker has measured them here: {numbers}{whose}."
    return Reason(rule=PlanRule.CONSTANTS, text=text)


def _on_gpu(own: MachineConstants) -> Constants:
    start = START_CONSTANTS
    return replace(
        start,
        cuda_context_bytes=_or(own.cuda_context_bytes, start.cuda_context_bytes),
        cuda_workspace_bytes=_or(own.cuda_workspace_bytes, start.cuda_workspace_bytes),
        slack=start.slack if own.allocator_slack is None else own.allocator_slack,
        unknown_gpu_tflops=own.matmul_16bit_flops_per_second / 1e12,
    )


def _or(measured: int | None, assumed: int) -> int:
    return assumed if measured is None else measured
