"""How fast a setup trains: arithmetic, bytes moved and launches, at rates from data sheets and measured runs."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tunesmith.tuning.datasets.balance import DrawnSteps, drawn_steps
from tunesmith.tuning.estimates.activations import Checkpointing
from tunesmith.tuning.estimates.cpu_speed import CPU_BYTES_PER_SECOND, CpuMicroStep, cpu_micro_step
from tunesmith.tuning.estimates.gpu_speed import (
    GPU_SPEEDS,
    OPTIMIZER_BYTES,
    GpuMicroStep,
    GpuSpeeds,
    GpuWork,
    Operations,
    gpu_micro_step,
    gpu_work,
    update_seconds,
)
from tunesmith.tuning.estimates.memory import Footprint, Setup, Spread, footprint_of, trainable_parameters
from tunesmith.tuning.estimates.utilization import flop_rates
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpu_table import UNKNOWN_GPU, KnownGpu
from tunesmith.tuning.hardware_facts.gpus import rates_of
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import TimeEstimate
from tunesmith.tuning.words import Method

MicroStep = GpuMicroStep | CpuMicroStep
# Products of a frozen base in 8 bits: the data sheets double the rate, scaling and rounding take a part of it back.
# Unmeasured: a roofline over the bytes of both.
FLOAT8_SPEEDUP = 1.6
# Adapters that are not fused multiply in fp32, outside the 16-bit tensor cores.
FP32_ADAPTER_FLOPS_FACTOR = 6
UNCERTAINTY = 0.35  # of a prediction that no run on this hardware has corrected
CALIBRATED_UNCERTAINTY = 0.12


@dataclass(frozen=True)
class Workload:
    """What must be computed: the data as the steps will see it. `row_lengths`, shortest first, stand for all rows."""

    supervised_share: float
    mean_row_tokens: float
    rows_per_step: int
    total_steps: int
    epochs: int
    row_lengths: tuple[float, ...]
    validation_rows: int = 0
    evaluations: int = 0  # over all validation rows: one before training, one at the end, and those between

    @property
    def tokens_per_step(self) -> float:
        """Of all devices together."""
        return max(1.0, self.mean_row_tokens * self.rows_per_step)

    @cached_property
    def attended_tokens(self) -> float:
        """Earlier tokens that a token attends to, the mean over tokens: half of a row; long rows hold more of them."""
        return sum(length * length for length in self.row_lengths) / (2 * sum(self.row_lengths))


def operations_of(shape: ModelShape, setup: Setup, *, supervised_share: float, attended_tokens: float) -> Operations:
    """Floating-point operations of forward and backward for each token.

    What training needs (`flop_rates`), the forward products of what is made again, and the slowness of adapters that
    are not fused.
    """
    full = setup.method is Method.FULL
    rates = flop_rates(shape, adapter_parameters=None if full else 0)
    layers: float = rates.token + 2 * recomputed_weights(shape, setup)
    if setup.float8_base:
        layers /= FLOAT8_SPEEDUP
    head = rates.supervised_token * supervised_share
    slow_adapters = setup.device == "cuda" and not setup.fused_passes
    per_parameter = 6 * (FP32_ADAPTER_FLOPS_FACTOR if slow_adapters else 1)
    adapters = 0 if full else per_parameter * _active_adapter_parameters(shape, setup)
    reference = 2 * shape.active_linear_weights if setup.preference_pairs else 0
    needed = 2 * attended_tokens * rates.squared_token  # a token attends to half of its sequence, in the mean
    attention = needed * 4 / 3 if setup.checkpointing == "full" else needed  # forward once more, of three passes
    return Operations(products=layers + head + adapters + reference, attention=attention)


def _active_adapter_parameters(shape: ModelShape, setup: Setup) -> int:
    sleeping = shape.sleeping_adapter_parameters(rank=setup.rank, targets=setup.targets)
    return trainable_parameters(shape, setup) - sleeping


def recomputed_weights(shape: ModelShape, setup: Setup) -> int:
    """Entries of the matrices that are multiplied with once more in the backward pass.

    Selective recomputation multiplies nothing again; `mlp` the matrices of the MLPs but the last, which is rerun only
    inside passes that drop or scale what adapters read.
    """
    if setup.checkpointing in ("none", "selective"):
        return 0
    if setup.checkpointing == "full":
        return shape.active_linear_weights
    reruns_last = setup.fused_passes and setup.method is not Method.FULL and (setup.dropout > 0 or setup.use_dora)
    return shape.mlp_weights if reruns_last else shape.wide_mlp_weights


class Steps(NamedTuple):
    """All optimizer steps of a job under one setup, whatever number of tokens its micro-steps have."""

    micro_step: MicroStep
    update_seconds: float
    world_size: int
    packing: bool
    workload: Workload

    def seconds(self, tokens_per_micro_step: int, *, evenness: float, correction: float | None = None) -> float:
        """Their duration, without evaluations.

        `evenness` as `predict_evenness` finds it; 1, as if no device had to wait for another, bounds the duration from
        below. `correction` is measured over predicted speed on this kind of hardware.
        """
        workload = self.workload
        # of the process that has most to do
        own_tokens = max(1.0, workload.tokens_per_step / (self.world_size * evenness))
        micro_steps = micro_steps_of(
            own_tokens,
            tokens_per_micro_step=tokens_per_micro_step,
            packing=self.packing,
            mean_row_tokens=workload.mean_row_tokens,
        )
        one_pass = self.micro_step.seconds(own_tokens / micro_steps)
        return (micro_steps * one_pass + self.update_seconds) * workload.total_steps / (correction or 1.0)


class Basis(NamedTuple):
    """What a method does on devices of one kind, however it is spread over them."""

    setup: Setup
    footprint: Footprint
    kind: str  # of the devices
    device: str  # one of them, by what its rates follow from
    hardware: HardwareProfile
    rates: KnownGpu  # of one GPU, if there is any; one that is in no table has those that were measured


def basis_on(hardware: HardwareProfile, setup: Setup, shape: ModelShape, *, kind: str = "", device: str = "") -> Basis:
    """Of a setup on devices with these names."""
    unknown = setup.constants.unknown_gpu_tflops
    rates = rates_of(hardware.gpus[0], unknown_tflops=unknown) if hardware.gpus else UNKNOWN_GPU
    return Basis(setup, footprint_of(shape, setup), kind, device, hardware, rates)


class MicroSteps:
    """Micro-steps of one job under any launch settings, remembered: few of these matter, and only to a part of it."""

    def __init__(self, shape: ModelShape, workload: Workload, *, speeds: GpuSpeeds = GPU_SPEEDS) -> None:
        self._shape, self._workload, self._speeds = shape, workload, speeds
        self._works: dict[tuple[str, Checkpointing, bool], GpuWork | CpuMicroStep] = {}
        self._found: dict[tuple[str, Checkpointing, bool, int, int, bool], MicroStep] = {}

    def of(self, basis: Basis, spread: Spread, checkpointing: Checkpointing, *, exchanges: bool = True) -> MicroStep:
        """Under these settings; without what devices exchange where that is not asked for."""
        fused, sharded = spread.fused_passes, spread.sharded_base
        exchanges = exchanges and (spread.zero_stage > 1 or sharded)
        stage, processes = (spread.zero_stage, spread.world_size) if exchanges else (0, 1)
        key = (basis.device, checkpointing, fused, stage, processes, sharded and exchanges)
        found = self._found.get(key)
        if found is None:
            work = self._work(basis, checkpointing, fused=fused)
            found = self._found[key] = self._with_exchange(work, basis, spread if exchanges else None)
        return found

    def _work(self, basis: Basis, checkpointing: Checkpointing, *, fused: bool) -> GpuWork | CpuMicroStep:
        key = (basis.device, checkpointing, fused)
        found = self._works.get(key)
        if found is None:
            setup = basis.setup.but(checkpointing=checkpointing, fused_passes=fused)
            found = self._works[key] = self._work_of(setup, basis)
        return found

    def _work_of(self, setup: Setup, basis: Basis) -> GpuWork | CpuMicroStep:
        shape, workload = self._shape, self._workload
        operations = operations_of(
            shape, setup, supervised_share=workload.supervised_share, attended_tokens=workload.attended_tokens
        )
        if not basis.hardware.gpus:
            return cpu_micro_step(shape, setup, cores=basis.hardware.cpu.cores, operations=operations)
        return gpu_work(shape, setup, gpu=basis.rates, operations=operations, speeds=self._speeds)

    def _with_exchange(self, work: GpuWork | CpuMicroStep, basis: Basis, spread: Spread | None) -> MicroStep:
        if isinstance(work, CpuMicroStep):
            return work
        sequences = 2 if basis.setup.preference_pairs else 1
        return gpu_micro_step(work, basis.footprint, spread, gpu=basis.rates, sequences=sequences, speeds=self._speeds)


def predict(
    shape: ModelShape,
    setup: Setup,
    *,
    workload: Workload,
    hardware: HardwareProfile,
    correction: float | None = None,
    speeds: GpuSpeeds = GPU_SPEEDS,
) -> TimeEstimate:
    """Speed and duration of all steps. `correction` is measured over predicted speed on this kind of hardware."""
    basis = basis_on(hardware, setup, shape)
    micro_step = MicroSteps(shape, workload, speeds=speeds).of(basis, setup, setup.checkpointing)
    steps = steps_of(basis, setup, micro_step, workload=workload, speeds=speeds)
    evenness = predict_evenness(shape, method=setup.method, processes=setup.world_size, workload=workload)
    return predict_by(steps, setup.tokens_per_micro_step, evenness=evenness, correction=correction)


def predict_by(
    steps: Steps, tokens_per_micro_step: int, *, evenness: float, correction: float | None = None
) -> TimeEstimate:
    """The same of steps and an evenness that are known, with so many tokens a micro-step."""
    workload, full = steps.workload, tokens_per_micro_step
    seconds = steps.seconds(full, evenness=evenness, correction=correction)
    spread = UNCERTAINTY if correction is None else CALIBRATED_UNCERTAINTY
    return TimeEstimate(
        tokens_per_second=workload.tokens_per_step * workload.total_steps / seconds,
        seconds=seconds,
        seconds_low=seconds * (1 - spread),
        seconds_high=seconds * (1 + 1.6 * spread),
        micro_step_tokens_per_second=full / steps.micro_step.seconds(full) * (correction or 1.0),
    )


def steps_of(
    basis: Basis, spread: Spread, micro_step: MicroStep, *, workload: Workload, speeds: GpuSpeeds = GPU_SPEEDS
) -> Steps:
    """Those whose micro-steps are known."""
    update = _update_seconds(basis, spread, speeds=speeds)
    return Steps(micro_step, update, spread.world_size, basis.setup.packing, workload)


def predict_evenness(shape: ModelShape, *, method: Method, processes: int, workload: Workload) -> float:
    """The share of a step in which the devices work: it lasts as long as the one that has most to do."""
    return drawn_work(shape, method=method, workload=workload).evenness(processes)


def drawn_work(shape: ModelShape, *, method: Method, workload: Workload) -> DrawnSteps:
    """Steps of rows with the lengths of the data, weighed by what each costs."""
    rates = flop_rates(shape, adapter_parameters=None if method is Method.FULL else 0)
    a_token = rates.token + rates.supervised_token * workload.supervised_share
    return drawn_steps(workload.row_lengths, rates.squared_token / a_token, workload.rows_per_step)


def micro_steps_of(own_tokens: float, *, tokens_per_micro_step: int, packing: bool, mean_row_tokens: float) -> int:
    """How many forward and backward passes so many tokens of one device take."""
    if packing:
        return max(1, -(-int(own_tokens) // tokens_per_micro_step))
    return max(1, round(own_tokens / max(1.0, mean_row_tokens)))


def _update_seconds(basis: Basis, spread: Spread, *, speeds: GpuSpeeds) -> float:
    """The optimizer, and what processes exchange once a step."""
    if not basis.hardware.gpus:
        return basis.footprint.trainable * OPTIMIZER_BYTES / CPU_BYTES_PER_SECOND
    return update_seconds(basis.footprint, spread, gpu=rates_of(basis.hardware.gpus[0]), speeds=speeds)
