"""How fast a setup trains: arithmetic, bytes moved and launches, at rates from data sheets and measured runs."""

from dataclasses import dataclass

from tuning.gpus import KnownGpu, rates_of
from tuning.hardware import HardwareProfile
from tuning.job import Method
from tuning.memory import Setup, trainable_parameters, weight_bytes
from tuning.plan import TimeEstimate
from tuning.shape import ModelShape

# Share of the data sheet's rate that whole training steps reach: published single-GPU runs lie at 0.33-0.43 on an H100,
# 0.57 on an A100 and 0.6 on an RTX 4090. The largest GPUs are the hardest to keep busy.
GPU_UTILIZATION = 0.48
LARGE_GPU_UTILIZATION = 0.40
LARGE_GPU_TFLOPS = 500
# An RTX 4090 trains an 8B model with recomputation at 3,083 tokens/s with LoRA and 2,413 with QLoRA, 4,096 tokens a
# micro-step: expanding a 4-bit weight costs as much time as moving so many bytes at 70 % of the bandwidth.
DEQUANTIZATION_BYTES = 12.4
# Adapters that are not fused multiply in fp32, outside the 16-bit tensor cores.
FP32_ADAPTER_FLOPS_FACTOR = 6
# Whole LoRA steps of a 135M model with packed rows reach 120 GFLOP/s per core in bf16, and 53 in fp32; matmuls alone
# reach 130-200 and 40-71 on the same processor (AVX-512 BF16, no AMX).
CPU_BF16_FLOPS_PER_CORE = 110e9
CPU_FP32_FLOPS_PER_CORE = 50e9
# bitsandbytes expands NF4 on a CPU this slowly: a QLoRA step of a 135M model took 15 s where LoRA took 1.1.
CPU_DEQUANTIZED_WEIGHTS_PER_SECOND_AND_CORE = 8e6
# Python and launch time that arithmetic cannot hide, per layer and micro-step, forward and backward together.
GPU_LAYER_OVERHEAD_SECONDS = 0.0012
CPU_LAYER_OVERHEAD_SECONDS = 0.0025
MICRO_STEP_OVERHEAD_SECONDS = 0.004
# Rates are half reached at this many tokens: small matmuls leave the device idle.
GPU_HALF_RATE_TOKENS = 350
CPU_HALF_RATE_TOKENS = 12
OFFLOAD_GB_PER_SECOND = 6.0
UNCERTAINTY = 0.35  # of a prediction that no run on this hardware has corrected
CALIBRATED_UNCERTAINTY = 0.12


@dataclass(frozen=True, slots=True)
class Workload:
    """What must be computed: the data as the steps will see it."""

    tokens_per_epoch: float
    supervised_share: float
    mean_row_tokens: float
    rows_per_step: int
    total_steps: int
    epochs: int


def flops_per_token(shape: ModelShape, setup: Setup, *, supervised_share: float, attended_tokens: float) -> float:
    """Floating-point operations of forward and backward for one token.

    A matrix costs 2 a weight forward, 2 to pass the gradient on, and 2 more to learn it: frozen weights skip the last,
    so LoRA needs 4 where full training needs 6. Attention costs 4 x query size x attended tokens forward and twice that
    backward. The head runs on supervised tokens alone.
    """
    full = setup.method is Method.FULL
    passes = 3 if full else 2
    recomputed = {"none": 0.0, "selective": 0.6, "full": 1.0}[setup.checkpointing]
    layers = 2 * shape.active_linear_weights * (passes + recomputed)
    attention = 4 * shape.query_size * shape.layers * attended_tokens * (3 + recomputed)
    head = 2 * shape.vocab_size * shape.hidden_size * supervised_share * passes
    slow_adapters = setup.device == "cuda" and not setup.fused_passes
    per_parameter = 6 * (FP32_ADAPTER_FLOPS_FACTOR if slow_adapters else 1)
    adapters = 0 if full else per_parameter * trainable_parameters(shape, setup)
    reference = 2 * shape.active_linear_weights if setup.preference_pairs else 0
    return layers + attention + head + adapters + reference


def predict(
    shape: ModelShape, setup: Setup, *, workload: Workload, hardware: HardwareProfile, correction: float | None = None
) -> TimeEstimate:
    """Speed and duration of all steps. `correction` is measured over predicted speed on this kind of hardware."""
    tokens_per_step = max(1.0, workload.mean_row_tokens * workload.rows_per_step)
    seconds_per_step = _seconds_per_step(shape, setup, workload=workload, hardware=hardware)
    seconds_per_step /= correction or 1.0
    seconds = seconds_per_step * workload.total_steps
    spread = UNCERTAINTY if correction is None else CALIBRATED_UNCERTAINTY
    return TimeEstimate(
        tokens_per_second=tokens_per_step / seconds_per_step,
        seconds=seconds,
        seconds_low=seconds * (1 - spread),
        seconds_high=seconds * (1 + 1.6 * spread),
    )


def _seconds_per_step(shape: ModelShape, setup: Setup, *, workload: Workload, hardware: HardwareProfile) -> float:
    tokens = max(1.0, workload.mean_row_tokens * workload.rows_per_step / setup.world_size)
    micro_steps = max(1, -(-int(tokens) // setup.tokens_per_micro_step))
    tokens_per_micro_step = tokens / micro_steps
    operations = flops_per_token(
        shape, setup, supervised_share=workload.supervised_share, attended_tokens=workload.mean_row_tokens / 2
    )
    if setup.preference_pairs:
        operations *= 2
    if setup.device == "cpu":
        return _cpu_seconds(
            shape,
            setup,
            cores=hardware.cpu.cores,
            operations=operations * tokens,
            micro_steps=micro_steps,
            tokens=tokens_per_micro_step,
        )
    return _gpu_seconds(
        shape,
        setup,
        gpu=rates_of(hardware.gpus[0]),
        operations=operations * tokens,
        micro_steps=micro_steps,
        tokens=tokens_per_micro_step,
    )


def _cpu_seconds(
    shape: ModelShape, setup: Setup, *, cores: int, operations: float, micro_steps: int, tokens: float
) -> float:
    per_core = CPU_BF16_FLOPS_PER_CORE if setup.precision == "bf16" else CPU_FP32_FLOPS_PER_CORE
    rate = per_core * cores * tokens / (tokens + CPU_HALF_RATE_TOKENS)
    dequantization = 0.0
    if setup.method is Method.QLORA:
        uses = 3 if setup.checkpointing == "full" else 2
        dequantization = uses * shape.quantizable_weights / (CPU_DEQUANTIZED_WEIGHTS_PER_SECOND_AND_CORE * cores)
    overhead = shape.layers * CPU_LAYER_OVERHEAD_SECONDS + MICRO_STEP_OVERHEAD_SECONDS + dequantization
    optimizer = trainable_parameters(shape, setup) * 28 / 8e9
    return operations / rate + micro_steps * overhead + optimizer


def _gpu_seconds(
    shape: ModelShape, setup: Setup, *, gpu: KnownGpu, operations: float, micro_steps: int, tokens: float
) -> float:
    utilization = LARGE_GPU_UTILIZATION if gpu.matmul_tflops > LARGE_GPU_TFLOPS else GPU_UTILIZATION
    rate = gpu.matmul_tflops * 1e12 * utilization * tokens / (tokens + GPU_HALF_RATE_TOKENS)
    bandwidth = gpu.bandwidth_gb_per_second * 1e9 * 0.7
    overhead = shape.layers * GPU_LAYER_OVERHEAD_SECONDS + MICRO_STEP_OVERHEAD_SECONDS
    if setup.method is Method.QLORA:
        uses = 3 if setup.checkpointing == "full" else 2
        overhead += uses * shape.quantizable_weights * DEQUANTIZATION_BYTES / bandwidth
    moved = trainable_parameters(shape, setup) * 28 / (setup.world_size if setup.zero_stage else 1)
    optimizer = moved / (OFFLOAD_GB_PER_SECOND * 1e9 if setup.offload_optimizer else bandwidth)
    return operations / rate + micro_steps * overhead + optimizer + _communication(shape, setup, gpu, micro_steps)


def _communication(shape: ModelShape, setup: Setup, gpu: KnownGpu, micro_steps: int) -> float:
    """A ring moves twice the gradients once a step; stage 3 also gathers the weights twice a micro-step."""
    if setup.world_size == 1:
        return 0.0
    link = gpu.link_gb_per_second * 1e9 * 0.6
    seconds = 2 * trainable_parameters(shape, setup) * setup.compute_bytes / link
    if setup.zero_stage == 3:
        seconds += 2 * weight_bytes(shape, setup) * micro_steps / link
    return seconds
