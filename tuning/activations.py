"""Bytes per token that the trainer's forward pass keeps for its backward pass, layer by layer.

Counted from the tensors that autograd saves, for the two sets of kernels that the trainer has: its own fused passes,
and the modules of `transformers` 5 with PEFT adapters in fp32. `benchmarks/memory` counts them again on the real
modules and the tests hold both within one per cent.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from tuning.linears import Linear, Role, Targets, is_target
from tuning.shape import MEASURED_RANK, ModelShape

Checkpointing = Literal["none", "selective", "full"]


@dataclass(frozen=True, slots=True)
class Graph:
    """What decides which tensors are saved. `full`: all weights learn; else adapters of `rank` on `targets`."""

    full: bool
    width: int
    rank: int = 0
    targets: Targets = "all-linear"
    dropout: float = 0.0
    device: Literal["cuda", "cpu"] = "cuda"
    fused: bool = False


@lru_cache(maxsize=2048)
def stored_bytes_per_token(shape: ModelShape, graph: Graph, *, checkpointing: Checkpointing) -> float:
    """Kept by all layers together: everything, all but the inside of the MLP, or only each layer's input."""
    if checkpointing == "full":
        return shape.layers * (graph.width * shape.hidden_size + _narrow(shape, graph, roles=("attention", "mlp")))
    kept = layer_bytes_per_token(shape, graph)
    if checkpointing == "selective":
        kept += graph.width * shape.hidden_size + _narrow(shape, graph, roles=("mlp",)) - _mlp(shape, graph)
    return shape.layers * kept


@lru_cache(maxsize=2048)
def recomputed_bytes_per_token(shape: ModelShape, graph: Graph, *, checkpointing: Checkpointing) -> float:
    """Rebuilt for the one layer whose backward runs."""
    if checkpointing == "none":
        return 0.0
    return layer_bytes_per_token(shape, graph) if checkpointing == "full" else _mlp(shape, graph)


def layer_bytes_per_token(shape: ModelShape, graph: Graph) -> float:
    """Kept by one layer when nothing is recomputed.

    Of a measured family the formulas only give what rank, targets, dropout and device change.
    """
    if shape.measured is None:
        return _layer_formula(shape, graph)
    as_measured = replace(graph, rank=MEASURED_RANK, targets="all-linear", dropout=0.0, device="cuda", fused=False)
    change = _layer_formula(shape, graph) - _layer_formula(shape, as_measured)
    return shape.measured.of(full=graph.full, width_bytes=graph.width) + change


def _layer_formula(shape: ModelShape, graph: Graph) -> float:
    return _norms(shape, graph) + _attention(shape, graph) + _mlp(shape, graph) - _shared_input(shape, graph)


@lru_cache(maxsize=2048)
def outside_bytes_per_token(shape: ModelShape, graph: Graph, *, checkpointing: Checkpointing) -> float:
    """Kept outside the layers: by the last norm, the rotary angles, and the head's hidden states with their gradient.

    Under adapters nothing before the first layer learns, so its first norm keeps nothing; recomputation hides that, and
    keeps no angles.
    """
    kept = _last_norm(shape, graph) + 2 * graph.width * shape.hidden_size
    if checkpointing == "full":
        return kept
    angles = 0 if shape.position_parameters else 2 * graph.width * shape.query_size // shape.heads
    return kept + angles - (0 if graph.full else _last_norm(shape, graph))


@lru_cache(maxsize=2048)
def backward_bytes_per_token(shape: ModelShape, graph: Graph) -> float:
    """Gradients in flight inside one layer: the MLP's, and an adapter's share of them in fp32 before it is rounded."""
    width, hidden = shape.intermediate_size, shape.hidden_size
    if graph.fused:
        return graph.width * (4 * width + 2 * hidden)
    in_flight = graph.width * (3 * width + 2 * hidden)
    return in_flight if graph.full else in_flight + 4 * max(width, hidden)


def _norms(shape: ModelShape, graph: Graph) -> float:
    """RMS norms keep their input in fp32, fused and layer norms as it is; a learning weight adds the normalised one."""
    hidden = shape.hidden_size
    if graph.fused:
        return shape.norm_inputs * (graph.width * hidden + 4) + _query_key_norms(shape, each=graph.width)
    if shape.norm == "layer":
        return shape.norm_inputs * (graph.width * hidden + 2 * graph.width)
    normalised = 4 if shape.norm == "gemma" else graph.width
    each = (4 + (normalised if graph.full else 0)) * hidden + 4
    return shape.norm_inputs * each + _query_key_norms(shape, each=4 + (normalised if graph.full else 0))


def _last_norm(shape: ModelShape, graph: Graph) -> float:
    """As one norm of a layer."""
    hidden = shape.hidden_size
    if graph.fused:
        return graph.width * hidden + 4
    if shape.norm == "layer":
        return graph.width * hidden + 2 * graph.width
    normalised = 4 if shape.norm == "gemma" else graph.width
    return (4 + (normalised if graph.full else 0)) * hidden + 4


def _query_key_norms(shape: ModelShape, *, each: int) -> float:
    """Norms over every head of queries and keys."""
    if not shape.query_key_norm:
        return 0.0
    heads = shape.heads + shape.key_value_size * shape.heads // shape.query_size
    return each * (shape.query_size + shape.key_value_size) + 4 * heads


def _attention(shape: ModelShape, graph: Graph) -> float:
    """FlashAttention (arXiv 2205.14135) keeps q, k, v, its output and a logsumexp a head; CPU blocks keep q, k, v."""
    query, key_value = shape.query_size, shape.key_value_size
    # A value that is a slice of one fused projection keeps all of it alive; unrotated q and k are such slices too.
    states = query + 2 * key_value
    if shape.fused_qkv == "rotated":
        states += query + key_value
    kept = graph.width * states + _inputs(shape, graph, role="attention")
    if graph.device == "cuda":
        kept += 4 * shape.heads + (0 if _keeps_as_is(shape, graph) else graph.width * query)
    return kept


def _keeps_as_is(shape: ModelShape, graph: Graph) -> bool:
    """Whether the output projection keeps its input unchanged: then that and the kernel's output are one tensor."""
    if graph.full or graph.fused:
        return True
    closing = [linear for linear in shape.linears if linear.role == "attention" and _closes(linear)]
    return graph.width == 4 and not graph.dropout and all(is_target(linear, graph.targets) for linear in closing)


def _mlp(shape: ModelShape, graph: Graph) -> float:
    """What the activation function and the gate's product keep, and the inputs of the matrices."""
    tensors = 2 if graph.fused else shape.activation_tensors
    return graph.width * tensors * shape.intermediate_size + _inputs(shape, graph, role="mlp")


def _inputs(shape: ModelShape, graph: Graph, *, role: Role) -> float:
    """Inputs of matrices. Learning a weight needs its input once; matrices with one input share it.

    An fp32 adapter on a 16-bit model keeps a widened copy of its own; with dropout a dropped copy and a mask. Fused
    passes keep each input once, adapted or not, and rebuild that of the MLP's last matrix.
    """
    members = [linear for linear in shape.linears if linear.role == role and linear.module]
    if graph.full:
        return graph.width * sum(_distinct_inputs(members))
    adapted = [linear for linear in members if is_target(linear, graph.targets)]
    narrow = sum(graph.rank * _per_layer(linear, shape) for linear in adapted)
    if graph.fused:
        inputs = _distinct_inputs([linear for linear in members if role == "attention" or not _closes(linear)])
        return graph.width * (sum(inputs) + narrow)
    middle = 4 * narrow
    if graph.dropout:
        dropped = 4 + (4 if graph.device == "cpu" else 1)
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
    if not shape.shared_norm_output or graph.fused or graph.dropout or (not graph.full and graph.width < 4):
        return 0.0
    readers = {linear.role for linear in shape.linears if not _closes(linear) and _reads(linear, graph)}
    return graph.width * shape.hidden_size if len(readers) > 1 else 0.0


def _reads(linear: Linear, graph: Graph) -> bool:
    return graph.full or is_target(linear, graph.targets)


def _narrow(shape: ModelShape, graph: Graph, *, roles: tuple[Role, ...]) -> float:
    """Low-rank products that fused passes keep on their own nodes, out of the reach of recomputation."""
    if not graph.fused:
        return 0.0
    adapted = [linear for linear in shape.targets(graph.targets) if linear.role in roles]
    return sum(graph.width * graph.rank * _per_layer(linear, shape) for linear in adapted)
