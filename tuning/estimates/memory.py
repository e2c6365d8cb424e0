"""Bytes that training needs on one device at its peak, itemised, for every method and launch setting."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from tunesmith.tuning.engine import ZeroSizes, logits_chunk_tokens, zero_sizes
from tunesmith.tuning.estimates.activations import Checkpointing, Graph, bytes_per_token
from tunesmith.tuning.hardware_facts.constants import START_CONSTANTS, Constants
from tunesmith.tuning.models.linears import Linear, Targets, adapts_experts
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.tuning.plan import MemoryEstimate
from tunesmith.tuning.words import Method

Optimizer = Literal["adamw", "adamw_8bit"]

# NF4 with blocks of 64: 4 bits and an fp32 scale a block; double quantisation makes the scale 8 bits and adds an fp32
# scale per 256 blocks (QLoRA, arXiv 2305.14314, section 3).
NF4_BITS = 4 + 32 / 64
NF4_DOUBLE_BITS = 4 + 8 / 64 + 32 / (64 * 256)


@dataclass(frozen=True)
class Setup:
    """The launch numbers that memory and speed depend on."""

    method: Method
    device: Literal["cuda", "cpu"]
    precision: Literal["bf16", "fp16", "fp32"]
    tokens_per_micro_step: int
    checkpointing: Checkpointing = "none"
    optimizer: Optimizer = "adamw"
    rank: int = 0
    targets: Targets = "all-linear"
    dropout: float = 0.0
    use_dora: bool = False
    float8_base: bool = False  # adapted matrices of the base in 8 bits
    double_quantization: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 0
    world_size: int = 1
    offload_optimizer: bool = False
    sharded_base: bool = False  # 4-bit weights are shared out, and gathered layer by layer
    preference_pairs: bool = False  # DPO puts two sequences for every row into a micro-step
    fused_passes: bool = False  # the trainer's own forward and backward passes: wherever ZeRO does not share weights
    fused_attention: bool = True  # by a kernel that keeps no scores
    repeats_heads: bool = False  # keys and values are repeated for each head of a group before they reach it
    packing: bool = True  # else every row goes through the model alone
    longest_row_tokens: int = 0  # matters only without a fused kernel
    constants: Constants = START_CONSTANTS

    def but(self, **changes: Any) -> "Setup":
        """With these fields changed: `dataclasses.replace` in a tenth of the time, for a search makes hundreds."""
        changed = object.__new__(Setup)
        changed.__dict__.update(self.__dict__ | changes)
        return changed

    @property
    def compute_bytes(self) -> int:
        """Width of one activation."""
        return 4 if self.precision == "fp32" else 2

    @property
    def graph(self) -> Graph:
        """What autograd sees."""
        return Graph(
            full=self.method is Method.FULL,
            width=self.compute_bytes,
            rank=self.rank,
            targets=self.targets,
            dropout=self.dropout,
            dora=self.use_dora,
            device=self.device,
            fused=self.fused_passes,
            repeats_heads=self.repeats_heads,
            shared_out=self.zero_stage == 3,
        )


class Spread(Protocol):
    """How a run is spread over devices: of a setup what a search of layouts varies."""

    @property
    def world_size(self) -> int:
        """Processes, one on each device."""

    @property
    def zero_stage(self) -> Literal[0, 1, 2, 3]:
        """What ZeRO shares out."""

    @property
    def optimizer(self) -> Optimizer:
        """Of 32-bit or 8-bit moments."""

    @property
    def offload_optimizer(self) -> bool:
        """Whether moments and masters live in host memory."""

    @property
    def sharded_base(self) -> bool:
        """Whether a 4-bit base is shared out."""

    @property
    def fused_passes(self) -> bool:
        """Whether the trainer's own passes run."""


class Footprint(NamedTuple):
    """Sizes of a model under one method and precision, before it is spread over devices."""

    weights: int  # bytes, as loaded on one device
    quantized: int  # of those in 4 bits
    layers: int
    full: bool  # all weights learn
    trainable: int  # parameters that the optimizer moves
    rounded: int  # bytes of adapters that own passes round for the matmuls, from forward to backward
    compute_bytes: int
    weights_are_masters: bool
    zero: ZeroSizes


def footprint_of(shape: ModelShape, setup: Setup) -> Footprint:
    """Whatever the setup says of devices."""
    full, trainable = setup.method is Method.FULL, trainable_parameters(shape, setup)
    is_rounded = not full and setup.compute_bytes < 4
    return Footprint(
        weights=weight_bytes(shape, setup),
        quantized=quantized_bytes(shape, setup),
        layers=shape.layers,
        full=full,
        trainable=trainable,
        rounded=setup.compute_bytes * (trainable - expert_adapter_parameters(shape, setup)) if is_rounded else 0,
        compute_bytes=setup.compute_bytes,
        weights_are_masters=full and setup.precision == "fp32",
        zero=zero_sizes_of(shape, setup),
    )


def estimate(shape: ModelShape, setup: Setup, *, budget_bytes: int) -> MemoryEstimate:
    """Predicted peak on one device, its items adding up to the total.

    The peak is static memory plus saved activations plus the largest of what comes and goes: the logits of a chunk,
    the working set of one layer's backward, or the optimizer's temporaries.
    """
    items, peaks = _static_items(footprint_of(shape, setup), setup), peaks_of(shape, setup)
    tokens = setup.tokens_per_micro_step * peaks.sequences
    items["activations"] = peaks.activations(tokens)
    transients = {"layer_backward": peaks.backward(tokens), "logits": peaks.logits(tokens)}
    name, size = max(transients.items(), key=lambda item: item[1])
    items[name] = size
    items["slack"] = peaks.slack(allocated=sum(items.values()), activations=items["activations"])
    items["context"] = peaks.context
    items = {name: size for name, size in items.items() if size}
    return MemoryEstimate(items=items, total_bytes=sum(items.values()), budget_bytes=budget_bytes)


class Peaks(NamedTuple):
    """Predicted peaks on one device, in bytes, whatever number of tokens a micro-step has and whatever stays resident.

    A search asks for hundreds, so everything that does not follow from these two is found beforehand.
    """

    sequences: int  # that a micro-step holds of each row
    kept: float  # of a token, from forward to backward
    in_flight: float  # of a token, in the backward pass of one layer
    backward_once: int
    backward_each: int
    logits_once: int
    logits_each: int
    logits_tokens: int  # of one chunk
    slack_share: float
    slack_of_activations: float
    context: int

    def of(self, tokens: int, *, resident: int) -> int:
        """Of micro-steps of so many tokens beside so many bytes that stay."""
        tokens *= self.sequences
        activations = int(tokens * self.kept)
        backward = int(tokens * self.in_flight) + self.backward_once + tokens * self.backward_each
        logits = min(tokens, self.logits_tokens) * self.logits_each + self.logits_once
        allocated = resident + activations + max(backward, logits)
        slack = int(self.slack_share * allocated + self.slack_of_activations * activations)
        return allocated + slack + self.context

    def activations(self, tokens: int) -> int:
        """Kept from forward to backward for so many tokens of all sequences."""
        return int(tokens * self.kept)

    def backward(self, tokens: int) -> int:
        """What comes and goes in the backward pass of one layer; it and a chunk's logits are never there together."""
        return int(tokens * self.in_flight) + self.backward_once + tokens * self.backward_each

    def logits(self, tokens: int) -> int:
        """Of one chunk, with what the head's own gradient takes."""
        return min(tokens, self.logits_tokens) * self.logits_each + self.logits_once

    def slack(self, *, allocated: int, activations: int) -> int:
        """What the allocator holds beyond what is asked for."""
        return int(self.slack_share * allocated + self.slack_of_activations * activations)


def peaks_of(shape: ModelShape, setup: Setup) -> Peaks:
    """Those of a setup with other micro-steps, spread over any number of devices."""
    constants, is_on_cpu = setup.constants, setup.device == "cpu"
    each = bytes_per_token(shape, setup.graph)[setup.checkpointing]
    logits_once, logits_each, logits_tokens = _logits(shape, setup)
    return Peaks(
        sequences=2 if setup.preference_pairs else 1,
        kept=each.by_layers + each.outside + _scores(shape, setup),
        in_flight=each.in_flight,
        backward_once=_backward_once(shape, setup),
        backward_each=max(shape.hidden_size, shape.intermediate_size) if setup.float8_base else 0,
        logits_once=logits_once,
        logits_each=logits_each,
        logits_tokens=logits_tokens,
        slack_share=constants.slack,
        slack_of_activations=constants.cpu_activation_slack if is_on_cpu else 0.0,
        context=(
            constants.cpu_process_bytes if is_on_cpu else constants.cuda_context_bytes + constants.cuda_workspace_bytes
        ),
    )


def total(shape: ModelShape, setup: Setup) -> int:
    """Predicted peak on one device as one number."""
    resident = resident_bytes(footprint_of(shape, setup), setup)
    return peaks_of(shape, setup).of(setup.tokens_per_micro_step, resident=resident)


def resident_bytes(footprint: Footprint, spread: Spread) -> int:
    """What stays for the whole run, whatever a micro-step holds."""
    return sum(_static_items(footprint, spread).values())


def weight_bytes(shape: ModelShape, setup: Setup) -> int:
    """The model's own weights, as loaded on one device before sharding."""
    if setup.method is not Method.QLORA:
        return _loaded_parameters(shape) * setup.compute_bytes - _saved_by_float8(shape, setup)
    rest = _loaded_parameters(shape) - shape.quantizable_weights
    return quantized_bytes(shape, setup) + rest * setup.compute_bytes


def quantized_bytes(shape: ModelShape, setup: Setup) -> int:
    """Those of the weights that 4-bit quantisation reaches, with their scales."""
    return int(shape.quantizable_weights * (NF4_DOUBLE_BITS if setup.double_quantization else NF4_BITS) / 8)


def _loaded_parameters(shape: ModelShape) -> int:
    return shape.parameters + shape.outside_parameters


def _saved_by_float8(shape: ModelShape, setup: Setup) -> int:
    """A byte an entry, and an fp32 scale a row, in place of the compute dtype."""
    if not setup.float8_base:
        return 0
    targets = [linear for linear in shape.targets(setup.targets) if linear.module]  # experts stay as they are
    entries = sum(linear.weights for linear in targets)
    return entries * (setup.compute_bytes - 1) - 4 * sum(linear.out_features * linear.copies for linear in targets)


def trainable_parameters(shape: ModelShape, setup: Setup) -> int:
    """Parameters that the optimizer moves."""
    if setup.method is Method.FULL:
        return shape.parameters
    return shape.adapter_parameters(rank=setup.rank, targets=setup.targets)


def expert_adapter_parameters(shape: ModelShape, setup: Setup) -> int:
    """Of those, the ones on experts: rounded anew in both passes of each layer."""
    return sum(linear.adapter_parameters(setup.rank) for linear in _adapted_experts(shape, setup))


def _adapted_experts(shape: ModelShape, setup: Setup) -> list[Linear]:
    if setup.method is Method.FULL or not adapts_experts(setup.targets):
        return []
    return [linear for linear in shape.targets(setup.targets) if linear.role == "expert"]


def _static_items(footprint: Footprint, spread: Spread) -> dict[str, int]:
    """What stays for the whole run."""
    items = _weight_items(footprint, spread)
    gradients, states = learning_bytes(footprint, spread)
    items["gradients"] = int(footprint.trainable * gradients)
    rounded = footprint.rounded if spread.fused_passes else 0
    items["optimizer" if footprint.full else "adapters_and_optimizer"] = int(footprint.trainable * states) + rounded
    if spread.zero_stage:
        items["zero_buckets"] = _zero_buckets(footprint, spread)
    return items


def _weight_items(footprint: Footprint, spread: Spread) -> dict[str, int]:
    """Whole, or this device's share of them; of a sharded 4-bit base also the layer at work and the next, gathered."""
    whole, shared = footprint.weights, footprint.quantized
    if not spread.sharded_base:
        return {"weights": whole // (spread.world_size if spread.zero_stage == 3 else 1)}
    return {"weights": whole - shared + shared // spread.world_size, "gathered_layers": 2 * shared // footprint.layers}


def learning_bytes(footprint: Footprint, spread: Spread) -> tuple[float, float]:
    """Per trainable parameter: an fp32 gradient; an fp32 master (16-bit ones lose small updates) and two moments."""
    if spread.zero_stage:
        return _sharded_learning_bytes(footprint, spread)
    moments = 2 if spread.optimizer == "adamw_8bit" else 8
    return 4, moments + (0 if footprint.weights_are_masters else 4)


def _sharded_learning_bytes(footprint: Footprint, spread: Spread) -> tuple[float, float]:
    """fp32 gradient, master and moments, shared out; at stage 1 no gradient is, nor the sum that it goes into.

    Adapters stay in fp32 beside their masters. Counted in runs of two processes: test_sharded_memory.py.
    """
    shards = spread.world_size
    if spread.zero_stage == 1:
        return footprint.compute_bytes + 4, 12 / shards
    if spread.offload_optimizer:
        return footprint.compute_bytes / shards, 0
    return 4 / shards, (12 if footprint.full else 16) / shards


def zero_sizes_of(shape: ModelShape, setup: Setup) -> ZeroSizes:
    """What the trainer hands to DeepSpeed for this model."""
    return zero_sizes(
        parameters=shape.parameters,
        trainable=trainable_parameters(shape, setup),
        layer_parameters=shape.linear_weights // shape.layers,
        embedding_parameters=shape.vocab_size * shape.hidden_size,
        hidden_size=shape.hidden_size,
    )


def _zero_buckets(footprint: Footprint, spread: Spread) -> int:
    """The flat buffer of gradients and its copy while they are summed; under stage 3 also the weights held whole."""
    sizes = footprint.zero
    return (2 * sizes.reduced + (sizes.live if spread.zero_stage == 3 else 0)) * footprint.compute_bytes


def _scores(shape: ModelShape, setup: Setup) -> int:
    """Without a fused attention kernel every layer keeps its scores: fp32 and rounded, a head and earlier token."""
    if setup.fused_attention:
        return 0
    layers = 1 if setup.checkpointing == "full" else shape.layers
    return layers * shape.heads * setup.longest_row_tokens * (4 + setup.compute_bytes)


def _backward_once(shape: ModelShape, setup: Setup) -> int:
    """What comes and goes in the backward pass of one layer, however many tokens it is for."""
    width = setup.compute_bytes
    backward = _expert_factors(shape, setup)
    if setup.method is Method.QLORA:
        backward += shape.largest_linear * width
    if setup.float8_base:  # one matrix turned over; what it is multiplied with in 8 bits comes with the tokens
        backward += shape.largest_linear
    if setup.method is Method.FULL:
        backward += shape.largest_linear * (width + 4)  # one gradient, as computed and widened for the master
    return backward


def _expert_factors(shape: ModelShape, setup: Setup) -> int:
    """One layer's factors rounded, and their gradients as multiplied and in fp32 as PEFT lays them out."""
    largest = max((linear.adapter_parameters(setup.rank) for linear in _adapted_experts(shape, setup)), default=0)
    return largest // shape.layers * (2 * setup.compute_bytes + 4)


def _logits(shape: ModelShape, setup: Setup) -> tuple[int, int, int]:
    """The head's own gradient, added up in fp32, when it learns; a token's logits and fp32 log-softmax; a chunk."""
    full = setup.method is Method.FULL
    chunk = logits_chunk_tokens(
        device=setup.device, vocab_size=shape.vocab_size, is_learning=full and not setup.preference_pairs
    )
    each = shape.vocab_size * (setup.compute_bytes + (8 if setup.preference_pairs else 4))
    return (shape.vocab_size * shape.hidden_size * (4 + setup.compute_bytes) if full else 0), each, chunk
