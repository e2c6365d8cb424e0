"""How long a processor works on one micro-step: large products at their rate, the rest by the elements it touches."""

from typing import NamedTuple

from tunesmith.tuning.estimates.gpu_speed import MICRO_STEP_OVERHEAD_SECONDS, Operations
from tunesmith.tuning.estimates.memory import Setup
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method

# On one core of an EPYC with AVX-512 BF16 a LoRA micro-step of 928 tokens of a 135M model spent 2.9 s in the products
# of its layers, which is 0.75 of the rate of large ones, and 1.75 s in everything else (attention, copies, activation
# functions, softmax): 30 ns for each token, layer and element of hidden state and MLP. Two cores took 1.5 s and 0.97 s.
CPU_MATMUL_SHARE = 0.75
CPU_SECONDS_PER_ELEMENT_AND_CORE = 30e-9
# `make bench-quality` on one core: a QLoRA step of one micro-step took 0.1 s longer than one of LoRA, for twice 106M
# weights that bitsandbytes expands from NF4.
CPU_DEQUANTIZED_WEIGHTS_PER_SECOND_AND_CORE = 2e9
# Python's own time, per layer and micro-step, forward and backward together.
CPU_LAYER_OVERHEAD_SECONDS = 0.0025
CPU_HALF_RATE_TOKENS = 12  # small products leave cores idle: half of the rate at so many tokens
CPU_BYTES_PER_SECOND = 8e9


class CpuMicroStep(NamedTuple):
    """Forward and backward on one machine, whatever number of tokens a micro-step has."""

    operations: Operations
    sequences: int  # of each row
    product_rate: float  # operations a second, of large products on all cores
    cores: int
    layers: int
    elements: int  # of hidden state and MLP
    remade_bytes: int  # for each token, by operations that recomputation repeats between the products
    overhead_seconds: float
    dequantization_seconds: float

    def seconds(self, tokens: float) -> float:
        """For so many tokens of one sequence of each row."""
        both = self.sequences * tokens
        operations = both * self.operations.products + both * self.operations.attention
        rate = self.product_rate * tokens / (tokens + CPU_HALF_RATE_TOKENS)
        elementwise = both * self.layers * self.elements * CPU_SECONDS_PER_ELEMENT_AND_CORE / self.cores
        overhead = self.overhead_seconds + both * self.remade_bytes / CPU_BYTES_PER_SECOND
        return operations / rate + elementwise + overhead + self.dequantization_seconds


def cpu_micro_step(shape: ModelShape, setup: Setup, *, cores: int, operations: Operations) -> CpuMicroStep:
    """That of a setup on a processor of so many cores."""
    own = setup.constants
    per_core = own.cpu_bf16_flops_per_core if setup.precision == "bf16" else own.cpu_fp32_flops_per_core
    dequantization = 0.0
    if setup.method is Method.QLORA:
        uses = 3 if setup.checkpointing == "full" else 2
        dequantization = uses * shape.quantizable_weights / (CPU_DEQUANTIZED_WEIGHTS_PER_SECOND_AND_CORE * cores)
    return CpuMicroStep(
        operations=operations,
        sequences=2 if setup.preference_pairs else 1,
        product_rate=per_core * CPU_MATMUL_SHARE * cores,
        cores=cores,
        layers=shape.layers,
        elements=shape.hidden_size + shape.intermediate_size,
        remade_bytes=_remade_bytes(shape, setup),
        overhead_seconds=_passes(setup) * shape.layers * CPU_LAYER_OVERHEAD_SECONDS + MICRO_STEP_OVERHEAD_SECONDS,
        dequantization_seconds=dequantization,
    )


def _remade_bytes(shape: ModelShape, setup: Setup) -> int:
    """Norms and gates, read and written."""
    if setup.checkpointing == "none":
        return 0
    elements = shape.layers * (2 * shape.norm_inputs * shape.hidden_size + 3 * shape.intermediate_size)
    return elements * setup.compute_bytes * (2 if setup.checkpointing == "full" else 1)


def _passes(setup: Setup) -> int:
    """Forward and backward passes of a micro-step: both sequences of a pair go alone where rows do."""
    return 2 if setup.preference_pairs and not setup.packing else 1
