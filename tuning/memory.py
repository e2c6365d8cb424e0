"""Bytes that training needs on one device at its peak, itemised, for every method and launch setting."""

from dataclasses import dataclass
from typing import Literal

from tuning.activations import layer_bytes_per_token, recompute_bytes_per_token, stored_bytes_per_token
from tuning.hardware import GIB
from tuning.job import Method
from tuning.linears import Targets
from tuning.plan import MemoryEstimate
from tuning.shape import ModelShape

Checkpointing = Literal["none", "selective", "full"]
Optimizer = Literal["adamw", "adamw_8bit"]

# Tokens whose logits exist at once: head and loss run in chunks, on supervised tokens only.
LOGITS_CHUNK_TOKENS = 1024
# bf16 logits 2, fp32 copy 4, fp32 softmax kept for the backward 4, its gradient in bf16 2.
LOGITS_BYTES_PER_ENTRY = 12
# NF4 with blocks of 64: 4 bits and an fp32 scale a block; double quantisation makes the scale 8 bits and adds an fp32
# scale per 256 blocks (QLoRA, arXiv 2305.14314, section 3).
NF4_BITS = 4 + 32 / 64
NF4_DOUBLE_BITS = 4 + 8 / 64 + 32 / (64 * 256)
ZERO_BUCKET_ELEMENTS = 100_000_000


@dataclass(frozen=True, slots=True)
class Constants:
    """What no formula gives. A worker measures its own once; these are the start."""

    cuda_context_bytes: int = int(0.6 * GIB)  # context and library handles, outside the allocator
    cuda_workspace_bytes: int = 40 * 1024**2  # cuBLAS, one handle and stream
    cpu_process_bytes: int = int(0.9 * GIB)  # interpreter, torch and transformers, measured resident after import
    slack: float = 0.03  # what the allocator holds beyond what is asked, with expandable segments


START_CONSTANTS = Constants()


@dataclass(frozen=True, slots=True)
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
    double_quantization: bool = False
    zero_stage: Literal[0, 1, 2, 3] = 0
    world_size: int = 1
    offload_optimizer: bool = False
    preference_pairs: bool = False  # DPO reads every row twice and needs the reference's view of it
    constants: Constants = START_CONSTANTS

    @property
    def compute_bytes(self) -> int:
        """Width of one activation."""
        return 4 if self.precision == "fp32" else 2


def estimate(shape: ModelShape, setup: Setup, *, budget_bytes: int) -> MemoryEstimate:
    """Predicted peak on one device, its items adding up to the total.

    The peak is static memory plus saved activations plus the largest of what comes and goes: the logits of a chunk,
    the working set of one layer's backward, or the optimizer's temporaries.
    """
    items = _static_items(shape, setup)
    items["activations"] = _saved_activations(shape, setup)
    name, size = max(_transients(shape, setup).items(), key=lambda item: item[1])
    items[name] = size
    items["slack"] = int(setup.constants.slack * sum(items.values()))
    items["context"] = _context(setup)
    items = {name: size for name, size in items.items() if size}
    return MemoryEstimate(items=items, total_bytes=sum(items.values()), budget_bytes=budget_bytes)


def total(shape: ModelShape, setup: Setup) -> int:
    """Predicted peak on one device as one number."""
    items = sum(_static_items(shape, setup).values())
    items += _saved_activations(shape, setup) + max(_transients(shape, setup).values())
    return items + int(setup.constants.slack * items) + _context(setup)


def weight_bytes(shape: ModelShape, setup: Setup) -> int:
    """The model's own weights, as loaded on one device before sharding."""
    if setup.method is not Method.QLORA:
        return shape.parameters * setup.compute_bytes
    bits = NF4_DOUBLE_BITS if setup.double_quantization else NF4_BITS
    rest = shape.parameters - shape.quantizable_weights
    return int(shape.quantizable_weights * bits / 8) + rest * setup.compute_bytes


def trainable_parameters(shape: ModelShape, setup: Setup) -> int:
    """Parameters that the optimizer moves."""
    if setup.method is Method.FULL:
        return shape.parameters
    return shape.adapter_parameters(rank=setup.rank, targets=setup.targets)


def _static_items(shape: ModelShape, setup: Setup) -> dict[str, int]:
    """What stays for the whole run. Trainable parameters are fp32 with fp32 gradients: bf16 ones lose small updates."""
    trainable, shards = trainable_parameters(shape, setup), setup.world_size
    full = setup.method is Method.FULL
    moments = 2 if setup.optimizer == "adamw_8bit" else 8
    masters = trainable * (4 + moments)
    gradients = trainable * 4
    items = {
        "weights": weight_bytes(shape, setup) // (shards if setup.zero_stage == 3 else 1),
        "gradients": gradients // (shards if setup.zero_stage >= 2 else 1),
    }
    if full and setup.precision == "fp32":
        masters -= trainable * 4  # the fp32 weights are the masters
    if setup.offload_optimizer:
        masters = 0
    name = "optimizer" if full else "adapters_and_optimizer"
    items[name] = masters // (shards if setup.zero_stage >= 1 else 1)
    if setup.zero_stage:
        items["zero_buckets"] = _zero_buckets(shape, setup)
    return items


def _zero_buckets(shape: ModelShape, setup: Setup) -> int:
    """Flat buffers to reduce gradients and gather weights; stage 3 also holds the layer at work and the next."""
    bucket = min(ZERO_BUCKET_ELEMENTS, shape.parameters)
    gathered = 0
    if setup.zero_stage == 3:
        layer = shape.linear_weights // shape.layers
        gathered = max(2 * layer, shape.vocab_size * shape.hidden_size)
    return (2 * bucket + gathered) * setup.compute_bytes


def _saved_activations(shape: ModelShape, setup: Setup) -> int:
    per_token = stored_bytes_per_token(
        shape,
        checkpointing=setup.checkpointing,
        full=setup.method is Method.FULL,
        targets=setup.targets,
        rank=setup.rank,
        dropout=setup.dropout,
        width=setup.compute_bytes,
    )
    return per_token * _tokens(setup)


def _transients(shape: ModelShape, setup: Setup) -> dict[str, int]:
    """What comes and goes, by name; only the largest is at the peak."""
    tokens = _tokens(setup)
    backward = tokens * layer_bytes_per_token(shape, width=setup.compute_bytes)
    if setup.checkpointing != "none":
        backward += tokens * recompute_bytes_per_token(
            shape,
            checkpointing=setup.checkpointing,
            full=setup.method is Method.FULL,
            targets=setup.targets,
            rank=setup.rank,
            dropout=setup.dropout,
            width=setup.compute_bytes,
        )
    if setup.method is Method.QLORA:
        backward += shape.largest_linear * setup.compute_bytes
    chunk = min(LOGITS_CHUNK_TOKENS, tokens)
    return {"layer_backward": backward, "logits": chunk * shape.vocab_size * LOGITS_BYTES_PER_ENTRY}


def _tokens(setup: Setup) -> int:
    return setup.tokens_per_micro_step * (2 if setup.preference_pairs else 1)


def _context(setup: Setup) -> int:
    if setup.device == "cpu":
        return setup.constants.cpu_process_bytes
    return setup.constants.cuda_context_bytes + setup.constants.cuda_workspace_bytes
