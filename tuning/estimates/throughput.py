"""How fast a setup trains: arithmetic, bytes moved and launches, at rates from data sheets and measured runs."""

from dataclasses import dataclass
from functools import cached_property

from tunesmith.tuning.datasets.balance import expected_evenness
from tunesmith.tuning.estimates.gpu_speed import (
    GPU_SPEEDS,
    MICRO_STEP_OVERHEAD_SECONDS,
    OPTIMIZER_BYTES,
    GpuSpeeds,
    Operations,
    micro_step_seconds,
    update_seconds,
)
from tunesmith.tuning.estimates.memory import Setup, trainable_parameters
from tunesmith.tuning.estimates.utilization import flop_rates
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.hardware_facts.gpus import rates_of
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import TimeEstimate
from tunesmith.tuning.words import Method

# Products of a frozen base in 8 bits: the data sheets double the rate, scaling and rounding take a part of it back.
# Unmeasured: a roofline over the bytes of both.
FLOAT8_SPEEDUP = 1.6
# Adapters that are not fused multiply in fp32, outside the 16-bit tensor cores.
FP32_ADAPTER_FLOPS_FACTOR = 6
# There a LoRA micro-step of 928 tokens of a 135M model spent 2.9 s in the products of its layers, which is 0.75 of the
# rate of large ones, and 1.75 s in everything else (attention, copies, activation functions, softmax): 30 ns for each
# token, layer and element of hidden state and MLP. Two cores took 1.5 s and 0.97 s.
CPU_MATMUL_SHARE = 0.75
CPU_SECONDS_PER_ELEMENT_AND_CORE = 30e-9
# `make bench-quality` on one core: a QLoRA step of one micro-step took 0.1 s longer than one of LoRA, for twice 106M
# weights that bitsandbytes expands from NF4.
CPU_DEQUANTIZED_WEIGHTS_PER_SECOND_AND_CORE = 2e9
# Python's own time, per layer and micro-step, forward and backward together.
CPU_LAYER_OVERHEAD_SECONDS = 0.0025
CPU_HALF_RATE_TOKENS = 12  # small products leave cores idle: half of the rate at so many tokens
CPU_BYTES_PER_SECOND = 8e9
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


def operations_of(
    shape: ModelShape, setup: Setup, *, tokens: float, supervised_share: float, attended_tokens: float
) -> Operations:
    """Floating-point operations of forward and backward over `tokens` tokens.

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
    sequences = 2 if setup.preference_pairs else 1
    return Operations(
        products=sequences * tokens * (layers + head + adapters + reference),
        attention=sequences * tokens * attention,
    )


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
    seconds = predict_seconds(shape, setup, workload=workload, hardware=hardware, correction=correction, speeds=speeds)
    full = setup.tokens_per_micro_step
    full_pass = one_micro_step_seconds(shape, setup, tokens=full, workload=workload, hardware=hardware, speeds=speeds)
    spread = UNCERTAINTY if correction is None else CALIBRATED_UNCERTAINTY
    return TimeEstimate(
        tokens_per_second=workload.tokens_per_step * workload.total_steps / seconds,
        seconds=seconds,
        seconds_low=seconds * (1 - spread),
        seconds_high=seconds * (1 + 1.6 * spread),
        micro_step_tokens_per_second=full / full_pass * (correction or 1.0),
    )


def predict_seconds(
    shape: ModelShape,
    setup: Setup,
    *,
    workload: Workload,
    hardware: HardwareProfile,
    correction: float | None = None,
    speeds: GpuSpeeds = GPU_SPEEDS,
    evenness: float | None = None,
) -> float:
    """Duration of all steps alone, without evaluations.

    `evenness` as `predict_evenness` finds it, where that is known; 1, as if no device had to wait for another, bounds
    the duration from below.
    """
    tokens_per_step = workload.tokens_per_step
    evenness = predict_evenness(shape, setup, workload=workload) if evenness is None else evenness
    own_tokens = max(1.0, tokens_per_step / (setup.world_size * evenness))  # of the process that has most to do
    micro_steps = micro_steps_of(setup, own_tokens=own_tokens, mean_row_tokens=workload.mean_row_tokens)
    tokens = own_tokens / micro_steps
    one_pass = one_micro_step_seconds(shape, setup, tokens=tokens, workload=workload, hardware=hardware, speeds=speeds)
    update = _update_seconds(shape, setup, hardware=hardware, speeds=speeds)
    return (micro_steps * one_pass + update) * workload.total_steps / (correction or 1.0)


def predict_evenness(shape: ModelShape, setup: Setup, *, workload: Workload) -> float:
    """The share of a step in which the devices work: it lasts as long as the one that has most to do."""
    rates = flop_rates(shape, adapter_parameters=None if setup.method is Method.FULL else 0)
    a_token = rates.token + rates.supervised_token * workload.supervised_share
    return expected_evenness(
        workload.row_lengths,
        squared_share=rates.squared_token / a_token,
        rows_per_step=workload.rows_per_step,
        processes=setup.world_size,
    )


def micro_steps_of(setup: Setup, *, own_tokens: float, mean_row_tokens: float) -> int:
    """How many forward and backward passes so many tokens of one device take."""
    if setup.packing:
        return max(1, -(-int(own_tokens) // setup.tokens_per_micro_step))
    return max(1, round(own_tokens / max(1.0, mean_row_tokens)))


def one_micro_step_seconds(
    shape: ModelShape,
    setup: Setup,
    *,
    tokens: float,
    workload: Workload,
    hardware: HardwareProfile,
    speeds: GpuSpeeds = GPU_SPEEDS,
) -> float:
    """Forward and backward over so many tokens on one device."""
    operations = operations_of(
        shape,
        setup,
        tokens=tokens,
        supervised_share=workload.supervised_share,
        attended_tokens=workload.attended_tokens,
    )
    if setup.device == "cpu":
        total = operations.products + operations.attention
        return _cpu_seconds(shape, setup, cores=hardware.cpu.cores, operations=total, tokens=tokens)
    gpu = rates_of(hardware.gpus[0], unknown_tflops=setup.constants.unknown_gpu_tflops)
    sequences = 2 if setup.preference_pairs else 1
    return micro_step_seconds(shape, setup, gpu=gpu, operations=operations, tokens=sequences * tokens, speeds=speeds)


def _cpu_seconds(shape: ModelShape, setup: Setup, *, cores: int, operations: float, tokens: float) -> float:
    """Products at a share of the rate of large ones, and the rest by the elements that it touches."""
    own = setup.constants
    per_core = own.cpu_bf16_flops_per_core if setup.precision == "bf16" else own.cpu_fp32_flops_per_core
    rate = per_core * CPU_MATMUL_SHARE * cores * tokens / (tokens + CPU_HALF_RATE_TOKENS)
    touched = (
        tokens * (2 if setup.preference_pairs else 1) * shape.layers * (shape.hidden_size + shape.intermediate_size)
    )
    elementwise = touched * CPU_SECONDS_PER_ELEMENT_AND_CORE / cores
    dequantization = 0.0
    if setup.method is Method.QLORA:
        uses = 3 if setup.checkpointing == "full" else 2
        dequantization = uses * shape.quantizable_weights / (CPU_DEQUANTIZED_WEIGHTS_PER_SECOND_AND_CORE * cores)
    overhead = _passes(setup) * shape.layers * CPU_LAYER_OVERHEAD_SECONDS + MICRO_STEP_OVERHEAD_SECONDS
    overhead += _remade_bytes(shape, setup, tokens=tokens) / CPU_BYTES_PER_SECOND
    return operations / rate + elementwise + overhead + dequantization


def _remade_bytes(shape: ModelShape, setup: Setup, *, tokens: float) -> float:
    """Moved by operations that recomputation repeats between the products: norms and gates, read and written."""
    if setup.checkpointing == "none":
        return 0.0
    elements = shape.layers * (2 * shape.norm_inputs * shape.hidden_size + 3 * shape.intermediate_size)
    sequences = 2 if setup.preference_pairs else 1
    return tokens * sequences * elements * setup.compute_bytes * (2 if setup.checkpointing == "full" else 1)


def _passes(setup: Setup) -> int:
    """Forward and backward passes of a micro-step: both sequences of a pair go alone where rows do."""
    return 2 if setup.preference_pairs and not setup.packing else 1


def _update_seconds(shape: ModelShape, setup: Setup, *, hardware: HardwareProfile, speeds: GpuSpeeds) -> float:
    """The optimizer, and what processes exchange once a step."""
    if setup.device == "cpu":
        return trainable_parameters(shape, setup) * OPTIMIZER_BYTES / CPU_BYTES_PER_SECOND
    return update_seconds(shape, setup, gpu=rates_of(hardware.gpus[0]), speeds=speeds)
