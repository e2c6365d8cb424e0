"""How long a GPU works on one micro-step: products, attention, what only moves bytes, launches, and gathered weights.

The constants were fitted to published runs (`benchmarks/published`, docs/published.md); none of them is a measurement
of this trainer. Each worker's own runs correct what comes out (`tuning.estimates.measured`).
"""

from dataclasses import dataclass
from typing import NamedTuple

from tunesmith.tuning.estimates.memory import Footprint, Setup, Spread
from tunesmith.tuning.estimates.sharded_base import gathered_bytes, with_gathers
from tunesmith.tuning.hardware_facts.gpu_table import KnownGpu
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.words import Method

REFERENCE_TFLOPS = 312  # an A100's; the share of the data sheet that larger GPUs reach is lower, that of smaller higher
MOST_OF_REACHED = 0.9  # of what large products reach, by the smaller ones of a layer
MICRO_STEP_OVERHEAD_SECONDS = 0.004
# What recomputation moves again between the products, as a share of a micro-step's: full is one of three passes, mlp
# makes norms and gates again and the products' outputs beside them, selective norms and gates alone. Counted in bytes.
TOUCHED_AGAIN = {"none": 0.0, "selective": 0.1, "mlp": 0.2, "full": 1 / 3}
# What it launches again, as a share of a micro-step's launches: of a layer's twelve operations or so the norms and
# gates, or all of its MLP but the last product; a whole forward pass takes Python as long as a backward pass.
LAUNCHED_AGAIN = {"none": 0.0, "selective": 0.1, "mlp": 0.2, "full": 0.5}
OPTIMIZER_BYTES = 28  # a parameter: its gradient, master and two moments read, all but the gradient written
OFFLOAD_GB_PER_SECOND = 6.0


@dataclass(frozen=True, slots=True)
class GpuSpeeds:
    """Shares of data sheets that training reaches. Fitted: docs/published.md says to what, and how well it holds."""

    products: float = 0.77  # of the rate of dense 16-bit products, by large ones on a GPU of `REFERENCE_TFLOPS`
    size_exponent: float = 0.26  # a GPU of twice the rate reaches 2 ** -0.26 of the share
    half_rate_tokens: float = 500  # small products leave a GPU idle: half of the rate at so many tokens a micro-step
    attention: float = 0.37  # of the rate that products reach, by fused attention kernels
    bandwidth: float = 0.70  # of the memory; assumed
    # Bytes moved between the products for each token, layer and element of hidden state and MLP, forwards and backwards
    touched_bytes: float = 45.0
    # Python and launches of a layer by our own passes, forwards and backwards; assumed
    layer_launch_seconds: float = 0.0012
    library_launches: float = 2.9  # times as many by the modules of transformers and PEFT
    link: float = 0.90
    hidden: float = 0.35  # of the time of arithmetic, behind which DeepSpeed's gathers and sums of gradients hide
    # Expanding a 4-bit weight moves it, its expanded copy out, and that in again.
    dequantization_bytes: float = 4.5


GPU_SPEEDS = GpuSpeeds()


class Operations(NamedTuple):
    """Floating-point operations for each token of a micro-step: of matrix products, and of attention between tokens."""

    products: float
    attention: float


class GpuWork(NamedTuple):
    """What one GPU computes, moves and launches in a micro-step, whatever number of tokens that has."""

    operations: Operations
    product_rate: float  # operations a second, of large products
    attention_rate: float
    half_rate_tokens: float
    layers: int
    elements: int  # of hidden state and MLP
    touched_bytes: float  # for each of those
    touched_again: float
    expanded_bytes: float  # of 4-bit weights, in all passes
    bandwidth: float
    launch_seconds: float
    recomputes_all: bool

    def seconds(self, tokens: float) -> float:
        """The longer of what the GPU does and what Python launches meanwhile."""
        rate = self.product_rate * tokens / (tokens + self.half_rate_tokens)
        products = tokens * self.operations.products / rate
        attention = tokens * self.operations.attention / self.attention_rate
        touched = tokens * self.layers * self.elements * self.touched_bytes * self.touched_again
        return max(products + attention + (touched + self.expanded_bytes) / self.bandwidth, self.launch_seconds)


class GpuMicroStep(NamedTuple):
    """Forward and backward on one GPU, whatever number of tokens a micro-step has: its work, and what it exchanges."""

    work: GpuWork
    sequences: int  # of each row
    travelling_seconds: float = 0.0  # weights and gradients, under ZeRO
    gathering_seconds: float = 0.0  # a 4-bit base that is shared out
    hidden: float = 0.0

    def seconds(self, tokens: float) -> float:
        """For so many tokens of one sequence of each row.

        The GPU computes while Python launches and weights travel, so the longest of the three decides, but for what
        cannot hide: the share of communication that finds nothing to compute beside it, and that of one layer, for the
        first weights are waited for and the last gradients are waited upon.
        """
        working, layers = self.work.seconds(self.sequences * tokens), self.work.layers
        exposed = max(self.travelling_seconds / layers, self.travelling_seconds - self.hidden * working)
        seconds = working + exposed + MICRO_STEP_OVERHEAD_SECONDS
        if not self.gathering_seconds:
            return seconds
        return with_gathers(seconds, moving_seconds=self.gathering_seconds, layers=layers)


def gpu_work(
    shape: ModelShape, setup: Setup, *, gpu: KnownGpu, operations: Operations, speeds: GpuSpeeds = GPU_SPEEDS
) -> GpuWork:
    """That of a setup: what its GPUs exchange, and their number, do not matter to it."""
    share = speeds.products * float((REFERENCE_TFLOPS / gpu.matmul_tflops) ** speeds.size_exponent)
    rate = 1e12 * min(gpu.matmul_tflops * share, gpu.reached_tflops * MOST_OF_REACHED)
    uses = 3 if setup.checkpointing == "full" else 2
    expanded = uses * shape.quantizable_weights * speeds.dequantization_bytes
    return GpuWork(
        operations=operations,
        product_rate=rate,
        attention_rate=rate * speeds.attention,
        half_rate_tokens=speeds.half_rate_tokens,
        layers=shape.layers,
        elements=shape.hidden_size + shape.intermediate_size,
        touched_bytes=speeds.touched_bytes,
        touched_again=1 + TOUCHED_AGAIN[setup.checkpointing],
        expanded_bytes=expanded if setup.method is Method.QLORA else 0.0,
        bandwidth=_bandwidth(gpu, speeds),
        launch_seconds=_launch_seconds(shape, setup, speeds=speeds),
        recomputes_all=setup.checkpointing == "full",
    )


def gpu_micro_step(
    work: GpuWork,
    footprint: Footprint,
    spread: Spread | None,
    *,
    gpu: KnownGpu,
    sequences: int,
    speeds: GpuSpeeds = GPU_SPEEDS,
) -> GpuMicroStep:
    """That work, with what GPUs exchange beside it where it is `spread` over several; `sequences` of each row."""
    if spread is None:
        return GpuMicroStep(work, sequences, hidden=speeds.hidden)
    made_again = work.recomputes_all
    return GpuMicroStep(
        work=work,
        sequences=sequences,
        travelling_seconds=_travelling_bytes(footprint, spread, made_again=made_again) / _link(gpu, speeds),
        gathering_seconds=gathered_bytes(footprint, spread) / _link(gpu, speeds),
        hidden=speeds.hidden,
    )


def update_seconds(footprint: Footprint, spread: Spread, *, gpu: KnownGpu, speeds: GpuSpeeds = GPU_SPEEDS) -> float:
    """The optimizer's step, and the sum of gradients over processes where it comes once a step."""
    trainable = footprint.trainable
    moved = trainable * OPTIMIZER_BYTES / (spread.world_size if spread.zero_stage else 1)
    seconds = moved / (OFFLOAD_GB_PER_SECOND * 1e9 if spread.offload_optimizer else _bandwidth(gpu, speeds))
    if spread.world_size > 1 and spread.zero_stage < 2:
        seconds += 2 * trainable * footprint.compute_bytes / _link(gpu, speeds)
    return seconds


def _launch_seconds(shape: ModelShape, setup: Setup, *, speeds: GpuSpeeds) -> float:
    """Both sequences of a pair go alone where rows do."""
    sequences = 2 if setup.preference_pairs and not setup.packing else 1
    again = 1 + LAUNCHED_AGAIN[setup.checkpointing]
    own = 1 if setup.fused_passes else speeds.library_launches
    return sequences * again * own * shape.layers * speeds.layer_launch_seconds


def _travelling_bytes(footprint: Footprint, spread: Spread, *, made_again: bool) -> float:
    """Stages 2 and 3 hand each pass's gradients out; stage 3 gathers weights for each pass through a layer.

    DeepSpeed keeps a layer that was recomputed for its backward pass, but not one whose weights are frozen (counted in
    a run of two processes).
    """
    if spread.zero_stage < 2 or spread.world_size < 2:
        return 0.0
    travelling = float(footprint.trainable * footprint.compute_bytes)
    if spread.zero_stage == 3:
        travelling += (3 if made_again and not footprint.full else 2) * footprint.weights
    return travelling * (spread.world_size - 1) / spread.world_size


def _bandwidth(gpu: KnownGpu, speeds: GpuSpeeds) -> float:
    return gpu.bandwidth_gb_per_second * 1e9 * speeds.bandwidth


def _link(gpu: KnownGpu, speeds: GpuSpeeds) -> float:
    return gpu.link_gb_per_second * 1e9 * speeds.link
