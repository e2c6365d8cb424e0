"""How fast a setup trains: arithmetic, bytes moved and launches, at rates from data sheets and measured runs."""

from dataclasses import dataclass

from tuning.balance import expected_evenness
from tuning.gpus import KnownGpu, rates_of
from tuning.hardware import HardwareProfile
from tuning.job import Method
from tuning.linears import closes
from tuning.memory import Setup, trainable_parameters, weight_bytes
from tuning.plan import TimeEstimate
from tuning.shape import ModelShape
from tuning.utilization import flop_rates

# Share of the data sheet's rate that whole training steps reach: published single-GPU runs lie at 0.33-0.43 on an H100,
# 0.57 on an A100 and 0.6 on an RTX 4090. The largest GPUs are the hardest to keep busy.
GPU_UTILIZATION = 0.48
LARGE_GPU_UTILIZATION = 0.40
LARGE_GPU_TFLOPS = 500
# An RTX 4090 trains an 8B model with recomputation at 3,083 tokens/s with LoRA and 2,413 with QLoRA, 4,096 tokens a
# micro-step: expanding a 4-bit weight costs as much time as moving so many bytes at 70 % of the bandwidth.
DEQUANTIZATION_BYTES = 12.4
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
# Python and launch time that arithmetic cannot hide, per layer and micro-step, forward and backward together.
GPU_LAYER_OVERHEAD_SECONDS = 0.0012
CPU_LAYER_OVERHEAD_SECONDS = 0.0025
MICRO_STEP_OVERHEAD_SECONDS = 0.004
# Rates are half reached at this many tokens: small matmuls leave the device idle.
GPU_HALF_RATE_TOKENS = 350
CPU_HALF_RATE_TOKENS = 12
OFFLOAD_GB_PER_SECOND = 6.0
OPTIMIZER_BYTES = 28  # a parameter: its gradient, master and two moments read, all but the gradient written
CPU_BYTES_PER_SECOND = 8e9
UNCERTAINTY = 0.35  # of a prediction that no run on this hardware has corrected
CALIBRATED_UNCERTAINTY = 0.12


@dataclass(frozen=True, slots=True)
class Workload:
    """What must be computed: the data as the steps will see it. `row_lengths`, shortest first, stand for all rows."""

    tokens_per_epoch: float
    supervised_share: float
    mean_row_tokens: float
    rows_per_step: int
    total_steps: int
    epochs: int
    row_lengths: tuple[float, ...]


def flops_per_token(shape: ModelShape, setup: Setup, *, supervised_share: float, attended_tokens: float) -> float:
    """Floating-point operations of forward and backward for one token.

    A matrix costs 2 a weight forward, 2 to pass the gradient on, and 2 more to learn it: frozen weights skip the last,
    so LoRA needs 4 where full training needs 6. Attention costs 4 x query size x attended tokens forward and twice that
    backward. The head runs on supervised tokens alone. What is made again costs its forward products once more.
    """
    full = setup.method is Method.FULL
    passes = 3 if full else 2
    layers: float = 2 * (shape.active_linear_weights * passes + recomputed_weights(shape, setup))
    if setup.float8_base:
        layers /= FLOAT8_SPEEDUP
    attention_passes = 4 if setup.checkpointing == "full" else 3
    attention = 4 * shape.query_size * shape.layers * attended_tokens * attention_passes
    head = 2 * shape.vocab_size * shape.hidden_size * supervised_share * passes
    slow_adapters = setup.device == "cuda" and not setup.fused_passes
    per_parameter = 6 * (FP32_ADAPTER_FLOPS_FACTOR if slow_adapters else 1)
    adapters = 0 if full else per_parameter * trainable_parameters(shape, setup)
    reference = 2 * shape.active_linear_weights if setup.preference_pairs else 0
    return layers + attention + head + adapters + reference


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
    inside = [linear for linear in shape.linears if linear.role in ("mlp", "expert", "router")]
    return sum(linear.active_weights for linear in inside if reruns_last or not closes(linear))


def predict(
    shape: ModelShape, setup: Setup, *, workload: Workload, hardware: HardwareProfile, correction: float | None = None
) -> TimeEstimate:
    """Speed and duration of all steps. `correction` is measured over predicted speed on this kind of hardware."""
    tokens_per_step = max(1.0, workload.mean_row_tokens * workload.rows_per_step)
    evenness = predict_evenness(shape, setup, workload=workload)
    own_tokens = max(1.0, tokens_per_step / (setup.world_size * evenness))  # of the process that has most to do
    micro_steps = _micro_steps(setup, own_tokens=own_tokens, mean_row_tokens=workload.mean_row_tokens)
    speed = correction or 1.0

    def micro_step_seconds(tokens: float) -> float:
        return _micro_step_seconds(shape, setup, tokens=tokens, workload=workload, hardware=hardware) / speed

    update_seconds = _update_seconds(shape, setup, hardware=hardware) / speed
    seconds_per_step = micro_steps * micro_step_seconds(own_tokens / micro_steps) + update_seconds
    seconds = seconds_per_step * workload.total_steps
    spread = UNCERTAINTY if correction is None else CALIBRATED_UNCERTAINTY
    full = setup.tokens_per_micro_step
    return TimeEstimate(
        tokens_per_second=tokens_per_step / seconds_per_step,
        seconds=seconds,
        seconds_low=seconds * (1 - spread),
        seconds_high=seconds * (1 + 1.6 * spread),
        micro_step_tokens_per_second=full / micro_step_seconds(full),
    )


def _micro_steps(setup: Setup, *, own_tokens: float, mean_row_tokens: float) -> int:
    if setup.packing:
        return max(1, -(-int(own_tokens) // setup.tokens_per_micro_step))
    return max(1, round(own_tokens / max(1.0, mean_row_tokens)))


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


def _micro_step_seconds(
    shape: ModelShape, setup: Setup, *, tokens: float, workload: Workload, hardware: HardwareProfile
) -> float:
    """Forward and backward over so many tokens on one device."""
    operations = tokens * flops_per_token(
        shape, setup, supervised_share=workload.supervised_share, attended_tokens=workload.mean_row_tokens / 2
    )
    if setup.preference_pairs:
        operations *= 2
    if setup.device == "cpu":
        return _cpu_seconds(shape, setup, cores=hardware.cpu.cores, operations=operations, tokens=tokens)
    gpu = rates_of(hardware.gpus[0], unknown_tflops=setup.constants.unknown_gpu_tflops)
    return _gpu_seconds(shape, setup, gpu=gpu, operations=operations, tokens=tokens)


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


def _gpu_seconds(shape: ModelShape, setup: Setup, *, gpu: KnownGpu, operations: float, tokens: float) -> float:
    utilization = LARGE_GPU_UTILIZATION if gpu.matmul_tflops > LARGE_GPU_TFLOPS else GPU_UTILIZATION
    rate = gpu.matmul_tflops * 1e12 * utilization * tokens / (tokens + GPU_HALF_RATE_TOKENS)
    overhead = _passes(setup) * shape.layers * GPU_LAYER_OVERHEAD_SECONDS + MICRO_STEP_OVERHEAD_SECONDS
    if setup.method is Method.QLORA:
        uses = 3 if setup.checkpointing == "full" else 2
        overhead += uses * shape.quantizable_weights * DEQUANTIZATION_BYTES / _bandwidth(gpu)
    if setup.zero_stage == 3 and setup.world_size > 1:  # the weights are gathered twice
        overhead += 2 * weight_bytes(shape, setup) / _link(gpu)
    overhead += _remade_bytes(shape, setup, tokens=tokens) / _bandwidth(gpu)
    return operations / rate + overhead


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


def _update_seconds(shape: ModelShape, setup: Setup, *, hardware: HardwareProfile) -> float:
    """The optimizer, and before it a ring that moves twice the gradients."""
    trainable = trainable_parameters(shape, setup)
    if setup.device == "cpu":
        return trainable * OPTIMIZER_BYTES / CPU_BYTES_PER_SECOND
    gpu = rates_of(hardware.gpus[0])
    moved = trainable * OPTIMIZER_BYTES / (setup.world_size if setup.zero_stage else 1)
    seconds = moved / (OFFLOAD_GB_PER_SECOND * 1e9 if setup.offload_optimizer else _bandwidth(gpu))
    if setup.world_size > 1:
        seconds += 2 * trainable * setup.compute_bytes / _link(gpu)
    return seconds


def _bandwidth(gpu: KnownGpu) -> float:
    return gpu.bandwidth_gb_per_second * 1e9 * 0.7


def _link(gpu: KnownGpu) -> float:
    return gpu.link_gb_per_second * 1e9 * 0.6
