"""Bytes per token that the trainer's forward pass keeps for its backward pass, layer by layer.

Counted from the tensors that autograd saves, for the two sets of kernels that the trainer has: its own fused passes
and, where ZeRO shares the weights out, the modules of `transformers` 5 with PEFT adapters in fp32. `benchmarks/memory`
counts them again on the real modules and the tests hold both within one per cent.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from tunesmith.tuning.models.linears import Linear, Role, Targets, closes, is_target
from tunesmith.tuning.models.shape import MEASURED_RANK, ModelShape

Checkpointing = Literal["none", "selective", "mlp", "full"]
INDEX_BYTES = 24  # of a token's expert: its number and its place among the sorted, and its share


@dataclass(frozen=True, slots=True)
class Graph:
    """What decides which tensors are saved. `full`: all weights learn; else adapters of `rank` on `targets`."""

    full: bool
    width: int
    rank: int = 0
    targets: Targets = "all-linear"
    dropout: float = 0.0
    dora: bool = False
    device: Literal["cuda", "cpu"] = "cuda"
    fused: bool = False
    repeats_heads: bool = False  # keys and values once for each head that reads them, where kernels take no groups
    shared_out: bool = False  # DeepSpeed's linears, which keep their input also where the weight is frozen

    @property
    def whole_blocks(self) -> bool:
        """Whether one pass computes a whole MLP: a frozen one under plain adapters."""
        return self.fused and not self.full and not self.dropout and not self.dora


class TokenBytes(NamedTuple):
    """Bytes of one token in a micro-step: kept from forward to backward, and in flight in the backward of a layer."""

    by_layers: float
    outside: float  # of the layers
    in_flight: float


@lru_cache(maxsize=2048)
def bytes_per_token(shape: ModelShape, graph: Graph) -> dict[Checkpointing, TokenBytes]:
    """By what is recomputed: nothing, norms and gates, MLPs too, or every layer from its input."""
    layers, layer, made_again = shape.layers, layer_bytes_per_token(shape, graph), _made_again(shape, graph)
    inside, mlp = _mlp_inside(shape, graph), _mlp(shape, graph)
    outside, of_inputs, backward = _outside(shape, graph), _outside_of_inputs(shape, graph), _backward(shape, graph)
    made = min(made_again, graph.width * (shape.hidden_size + shape.intermediate_size))
    return {
        "none": TokenBytes(layers * layer, outside, backward),
        "selective": TokenBytes(layers * (layer - made_again), outside, backward + made),
        "mlp": TokenBytes(layers * (layer - made_again - inside), outside, backward + (made + mlp)),
        "full": TokenBytes(layers * graph.width * shape.hidden_size, of_inputs, backward + layer),
    }


def layer_bytes_per_token(shape: ModelShape, graph: Graph) -> float:
    """Kept by one layer when nothing is recomputed.

    Of a measured family the formulas only give what rank, targets, dropout and device change.
    """
    if shape.measured is None:
        return _layer_formula(shape, graph)
    as_measured = replace(graph, rank=MEASURED_RANK, targets="all-linear", dropout=0.0, dora=False, device="cuda")
    as_measured = replace(as_measured, fused=True)
    change = _layer_formula(shape, graph) - _layer_formula(shape, as_measured)
    return shape.measured.of(full=graph.full, width_bytes=graph.width) + change


def _layer_formula(shape: ModelShape, graph: Graph) -> float:
    return _norms(shape, graph) + _attention(shape, graph) + _mlp(shape, graph) - _shared_input(shape, graph)


def _outside(shape: ModelShape, graph: Graph) -> float:
    """Kept outside the layers: by the last norm, the rotary angles, and the head's hidden states with their gradient.

    Under adapters nothing before the first layer learns, so its first norm keeps nothing.
    """
    angles = 0 if shape.position_parameters else 2 * graph.width * shape.query_size // shape.heads
    return _outside_of_inputs(shape, graph) + angles - (0 if graph.full else _norm(shape, graph))


def _outside_of_inputs(shape: ModelShape, graph: Graph) -> float:
    """Where layers keep their input alone, which hides what the first norm keeps, and no angles."""
    return _norm(shape, graph) + 2 * graph.width * shape.hidden_size


def _backward(shape: ModelShape, graph: Graph) -> float:
    """Gradients in flight inside one layer: the MLP's, and an adapter's share of them in fp32 before it is rounded."""
    width, hidden = shape.intermediate_size, shape.hidden_size
    if graph.fused:
        dense = graph.width * (4 * width + 2 * hidden)
        return dense if graph.full or _has_own_mlp(shape) else max(dense, _experts_backward(shape, graph))
    in_flight = graph.width * (3 * width + 2 * hidden)
    return in_flight if graph.full else in_flight + 4 * max(width, hidden)


def _experts_backward(shape: ModelShape, graph: Graph) -> float:
    """Rows of all of a token's experts: dy or dx twice, beside what the gate's derivative makes."""
    last = [linear for linear in shape.linears if linear.role == "expert" and closes(linear)]
    rows = sum(linear.out_features * _active_per_layer(linear, shape) for linear in last)
    inner = sum(linear.in_features * _active_per_layer(linear, shape) for linear in last)
    return graph.width * (max(rows + 5 * inner, 2 * rows + 2 * inner) + 2 * shape.hidden_size)


def _norms(shape: ModelShape, graph: Graph) -> float:
    per_head = graph.width if graph.fused else 4 + (_normalised_width(shape, graph) if graph.full else 0)
    return shape.norm_inputs * _norm(shape, graph) + _query_key_norms(shape, each=per_head)


def _norm(shape: ModelShape, graph: Graph) -> float:
    """RMS norms keep their input in fp32, ours and layer norms as it is; a learning weight adds the normalised one."""
    if shape.norm == "layer":
        return graph.width * shape.hidden_size + 2 * graph.width
    if graph.fused:
        return graph.width * shape.hidden_size + 4
    return (4 + (_normalised_width(shape, graph) if graph.full else 0)) * shape.hidden_size + 4


def _normalised_width(shape: ModelShape, graph: Graph) -> int:
    return 4 if shape.norm == "gemma" else graph.width


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
    states = query + 2 * (query if graph.repeats_heads else key_value)
    if shape.fused_qkv == "rotated":
        states += query + key_value
    kept = graph.width * states + _inputs(shape, graph, role="attention")
    if graph.device == "cuda":
        kept += 4 * shape.heads + (0 if _keeps_as_is(shape, graph) else graph.width * query)
    return kept


def _keeps_as_is(shape: ModelShape, graph: Graph) -> bool:
    """Whether the output projection keeps its input unchanged: then that and the kernel's output are one tensor."""
    if graph.full:
        return True
    closing = [linear for linear in shape.linears if linear.role == "attention" and closes(linear)]
    reads_it = all(is_target(linear, graph.targets) for linear in closing)
    return reads_it and (graph.fused or (graph.width == 4 and not graph.dropout))


def _mlp(shape: ModelShape, graph: Graph) -> float:
    """What the activation function and the gate's product keep, and the inputs of the matrices."""
    if graph.fused and not graph.full and not _has_own_mlp(shape):
        return _experts(shape, graph) + _dense_beside_experts(shape, graph) + _inputs(shape, graph, role="mlp")
    tensors = shape.activation_tensors
    if graph.fused and _has_own_mlp(shape):
        tensors = 2 if _is_gated(shape) else 1
    return graph.width * tensors * shape.intermediate_size + _inputs(shape, graph, role="mlp")


def _experts(shape: ModelShape, graph: Graph) -> float:
    """What our pass over experts keeps for each of a token's: the wide product, and where it is; router scores in fp32.

    Adapters add the input, once, and a thin product each, of a rank filled up for the kernels.
    """
    experts = [linear for linear in shape.linears if linear.role == "expert"]
    wide = [linear for linear in experts if not closes(linear)]
    kept = graph.width * sum(linear.out_features * _active_per_layer(linear, shape) for linear in wide)
    kept += INDEX_BYTES * sum(_active_per_layer(linear, shape) for linear in experts if closes(linear))
    kept += 4 * sum(
        linear.out_features * _per_layer(linear, shape) for linear in shape.linears if linear.role == "router"
    )
    adapted = _adapted_experts(shape, graph)
    if not adapted:
        return kept
    rank = graph.rank if graph.width > 2 else -(-graph.rank // 8) * 8
    kept += graph.width * rank * sum(_active_per_layer(linear, shape) for linear in adapted)
    already = any(linear.role == "mlp" and not closes(linear) for linear in shape.targets(graph.targets))
    return kept + (0 if already else graph.width * shape.hidden_size * _share_of_layers(shape))


def _adapted_experts(shape: ModelShape, graph: Graph) -> list[Linear]:
    """None where everything learns."""
    return [] if graph.full else [linear for linear in shape.targets(graph.targets) if linear.role == "expert"]


def _dense_beside_experts(shape: ModelShape, graph: Graph) -> float:
    """What lies between the matrices of MLPs that are modules: shared experts, and layers without any."""
    inner = sum(linear.in_features * _per_layer(linear, shape) for linear in shape.linears if _is_last_of_mlp(linear))
    return graph.width * (2 if _is_gated(shape) else 1) * inner


def _is_last_of_mlp(linear: Linear) -> bool:
    return linear.role == "mlp" and closes(linear)


def _active_per_layer(linear: Linear, shape: ModelShape) -> float:
    return (linear.copies if linear.active_copies is None else linear.active_copies) / shape.layers


def _share_of_layers(shape: ModelShape) -> float:
    """That have experts."""
    routers = sum(linear.copies for linear in shape.linears if linear.role == "router")
    return min(1.0, routers / shape.layers) if routers else 1.0


def _mlp_inside(shape: ModelShape, graph: Graph) -> float:
    """What recomputing the MLPs leaves out, beside what is made again anyway; modules of libraries keep their input."""
    if graph.whole_blocks and _has_own_mlp(shape):
        wide = [linear for linear in shape.targets(graph.targets) if linear.role == "mlp" and not closes(linear)]
        tensors = 2 if _is_gated(shape) else 1
        narrow = sum(graph.rank * _per_layer(linear, shape) for linear in wide)
        return graph.width * (tensors * shape.intermediate_size + narrow)
    kept = _made_again(shape, graph, roles=("mlp",)) if graph.fused else graph.width * shape.hidden_size
    return _mlp(shape, graph) - kept


def _made_again(shape: ModelShape, graph: Graph, *, roles: tuple[Role, ...] = ("attention", "mlp")) -> float:
    """What selective recomputation leaves out: outputs of norms, and of the gate where a module reads it."""
    if not graph.fused or shape.measured is not None:
        return 0.0
    readers = [linear for linear in shape.linears if linear.role in roles and linear.module and _reads(linear, graph)]
    normalised = {linear.role for linear in readers if not closes(linear)}
    if "mlp" in roles and _adapted_experts(shape, graph):
        normalised.add("mlp")
    outputs = min(len(normalised), 1) if shape.shared_norm_output else len(normalised)
    gate = any(linear.role == "mlp" and closes(linear) for linear in readers) and not graph.whole_blocks
    inner = shape.intermediate_size if gate and _has_own_mlp(shape) else 0
    return graph.width * (outputs * shape.hidden_size + inner)


def _has_own_mlp(shape: ModelShape) -> bool:
    """Whether every MLP is one of matrices that are modules, which our passes know; experts are not."""
    return not any(linear.role == "expert" for linear in shape.linears)


def _is_gated(shape: ModelShape) -> bool:
    return any(linear.name.endswith(("gate_proj", "gate_up_proj")) for linear in shape.linears)


def _inputs(shape: ModelShape, graph: Graph, *, role: Role) -> float:
    """Inputs of matrices. Learning a weight needs its input once; matrices with one input share it.

    An fp32 adapter in a module of PEFT on a 16-bit model keeps a widened copy of its own; with dropout a dropped copy
    and a mask. Our passes keep each input once, with dropout a mask each, with DoRA each product; the whole MLP's
    rebuilds the input of its last matrix.
    """
    members = [linear for linear in shape.linears if linear.role == role and linear.module]
    if graph.full:
        return graph.width * sum(_distinct_inputs(members))
    adapted = [linear for linear in members if is_target(linear, graph.targets)]
    narrow = sum(graph.rank * _per_layer(linear, shape) for linear in adapted)
    if graph.fused:
        return graph.width * narrow + _inputs_of_passes(adapted, shape, graph, role=role)
    middle = 4 * narrow + (graph.width * sum(_distinct_inputs(members)) if graph.shared_out else 0)
    if graph.dropout:
        dropped = 4 + (4 if graph.device == "cpu" else 1)
        return middle + sum(dropped * linear.in_features * _per_layer(linear, shape) for linear in adapted)
    if graph.width < 4:
        return middle + sum(4 * linear.in_features * _per_layer(linear, shape) for linear in adapted)
    return middle + graph.width * sum(_distinct_inputs(adapted))


def _inputs_of_passes(adapted: list[Linear], shape: ModelShape, graph: Graph, *, role: Role) -> float:
    rebuilt = role == "mlp" and graph.whole_blocks and _has_own_mlp(shape)
    kept: float = graph.width * sum(
        _distinct_inputs([linear for linear in adapted if not (rebuilt and closes(linear))])
    )
    if graph.dropout:
        kept += sum(linear.in_features * _per_layer(linear, shape) for linear in adapted)
    if graph.dora:
        kept += graph.width * sum(linear.out_features * _per_layer(linear, shape) for linear in adapted)
    return kept


def _distinct_inputs(linears: list[Linear]) -> list[int]:
    """Sizes of the different inputs: projections of one role that read the hidden state read the same tensor."""
    readers = {linear.in_features for linear in linears if not closes(linear)}
    return [*readers, *(linear.in_features for linear in linears if closes(linear))]


def _per_layer(linear: Linear, shape: ModelShape) -> float:
    return linear.copies / shape.layers


def _shared_input(shape: ModelShape, graph: Graph) -> float:
    """Attention and MLP that read one norm's output keep it once, when it is kept as it is."""
    widened = not graph.fused and not graph.full and (graph.width < 4 or bool(graph.dropout))
    if not shape.shared_norm_output or widened:
        return 0.0
    readers = {linear.role for linear in shape.linears if not closes(linear) and _reads(linear, graph)}
    return graph.width * shape.hidden_size if len(readers) > 1 else 0.0


def _reads(linear: Linear, graph: Graph) -> bool:
    return graph.full or is_target(linear, graph.targets)
