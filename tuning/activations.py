"""Bytes per token that the trainer's forward pass keeps for its backward pass, layer by layer.

Counted from the tensors that autograd saves in the model classes of `transformers` 5 with packed attention, PEFT
adapters in fp32 and activations of `width` bytes (2 or 4); `benchmarks/memory` counts them again and the tests hold
both within one per cent.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tuning.linears import Linear, Role, Targets, is_target
from tuning.shape import ModelShape

Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True, slots=True)
class Graph:
    """What decides which tensors are saved. `full`: all weights learn; else adapters of `rank` on `targets`."""

    full: bool
    width: int
    rank: int = 0
    targets: Targets = "all-linear"
    dropout: float = 0.0
    mask_bytes: int = 1  # of one entry of a dropout mask: 1 on a GPU, 4 on a CPU


@lru_cache(maxsize=2048)
def stored_bytes_per_token(shape: ModelShape, graph: Graph, *, checkpointing: Checkpointing) -> float:
    """Kept by all layers together: everything, all but the inside of the MLP, or only each layer's input."""
    if checkpointing == "full":
        return shape.layers * shape.hidden_size * graph.width
    kept = layer_bytes_per_token(shape, graph)
    if checkpointing == "selective":
        kept += _selective_input(shape, graph) - _mlp(shape, graph)
    return shape.layers * kept


@lru_cache(maxsize=2048)
def recomputed_bytes_per_token(shape: ModelShape, graph: Graph, *, checkpointing: Checkpointing) -> float:
    """Rebuilt for the one layer whose backward runs."""
    if checkpointing == "none":
        return 0.0
    return layer_bytes_per_token(shape, graph) if checkpointing == "full" else _mlp(shape, graph)


def layer_bytes_per_token(shape: ModelShape, graph: Graph) -> float:
    """Kept by one layer when nothing is recomputed."""
    return _norms(shape, graph) + _attention(shape, graph) + _mlp(shape, graph) - _shared_input(shape, graph)


@lru_cache(maxsize=2048)
def outside_bytes_per_token(shape: ModelShape, graph: Graph) -> float:
    """Kept outside the layers: the last norm's input in fp32, its output, and the hidden states with their gradient."""
    return shape.hidden_size * (4 + 3 * graph.width)


@lru_cache(maxsize=2048)
def backward_bytes_per_token(shape: ModelShape, graph: Graph) -> float:
    """Gradients in flight inside one layer: the MLP's, and an adapter's share of them in fp32 before it is rounded."""
    in_flight = graph.width * (3 * shape.intermediate_size + 2 * shape.hidden_size)
    return in_flight if graph.full else in_flight + 4 * max(shape.intermediate_size, shape.hidden_size)


def _norms(shape: ModelShape, graph: Graph) -> float:
    """RMS norms keep their input in fp32, layer norms as it is. A weight that learns adds the normalised input."""
    hidden = shape.hidden_size
    if shape.norm == "layer":
        return shape.norm_inputs * (graph.width * hidden + 2 * graph.width)
    normalised = 4 if shape.norm == "gemma" else graph.width
    each = (4 + (normalised if graph.full else 0)) * hidden + 4
    total = shape.norm_inputs * each
    if shape.query_key_norm:
        heads = shape.heads + shape.key_value_size * shape.heads // shape.query_size
        states = shape.query_size + shape.key_value_size
        total += (4 + (normalised if graph.full else 0)) * states + 4 * heads
    return total


def _attention(shape: ModelShape, graph: Graph) -> float:
    """The kernel keeps q, k, v, its output and a logsumexp per head (FlashAttention, arXiv 2205.14135)."""
    query, key_value = shape.query_size, shape.key_value_size
    # A value that is a slice of one fused projection keeps all of it alive; unrotated q and k are such slices too.
    states = query + 2 * key_value
    if shape.fused_qkv == "rotated":
        states += query + key_value
    return graph.width * (states + query) + 4 * shape.heads + _inputs(shape, graph, role="attention")


def _mlp(shape: ModelShape, graph: Graph) -> float:
    """What the activation function and the gate's product keep, and the inputs of the matrices."""
    return graph.width * shape.activation_tensors * shape.intermediate_size + _inputs(shape, graph, role="mlp")


def _inputs(shape: ModelShape, graph: Graph, *, role: Role) -> float:
    """Inputs of matrices. Learning a weight needs its input once; matrices with one input share it.

    An fp32 adapter on a 16-bit model keeps a widened copy of its own; with dropout a dropped copy and a mask.
    """
    members = [linear for linear in shape.linears if linear.role == role and linear.module]
    if graph.full:
        return graph.width * sum(_distinct_inputs(members))
    adapted = [linear for linear in members if is_target(linear, graph.targets)]
    middle = sum(4 * graph.rank * _per_layer(linear, shape) for linear in adapted)
    if graph.dropout:
        dropped = 4 + graph.mask_bytes
        return middle + sum(dropped * linear.in_features * _per_layer(linear, shape) for linear in adapted)
    if graph.width < 4:
        return middle + sum(4 * linear.in_features * _per_layer(linear, shape) for linear in adapted)
    return middle + graph.width * sum(_distinct_inputs(adapted))


def _distinct_inputs(linears: list[Linear]) -> list[int]:
    """Sizes of the different inputs: projections of one role that read the hidden state read the same tensor."""
    readers = {linear.in_features for linear in linears if not _closes(linear)}
    return [*readers, *(linear.in_features for linear in linears if _closes(linear))]


def _closes(linear: Linear) -> bool:
    """Whether the matrix is the last of its block and so reads an inner tensor."""
    return linear.name.rsplit(".", 1)[-1] in ("o_proj", "dense", "c_proj", "down_proj", "fc2", "dense_4h_to_h")


def _per_layer(linear: Linear, shape: ModelShape) -> float:
    return linear.copies / shape.layers


def _shared_input(shape: ModelShape, graph: Graph) -> float:
    """Attention and MLP that read one norm's output keep it once, when it is kept as it is."""
    if not shape.shared_norm_output or graph.dropout or (not graph.full and graph.width < 4):
        return 0.0
    readers = {linear.role for linear in shape.linears if not _closes(linear) and _reads(linear, graph)}
    return graph.width * shape.hidden_size if len(readers) > 1 else 0.0


def _reads(linear: Linear, graph: Graph) -> bool:
    return graph.full or is_target(linear, graph.targets)


def _selective_input(shape: ModelShape, graph: Graph) -> float:
    """The MLP's input, which its recomputation starts from."""
    return graph.width * shape.hidden_size
