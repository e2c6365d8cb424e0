"""Bytes per token that the forward pass keeps for the backward pass, layer by layer."""

from tuning.linears import Targets
from tuning.shape import ModelShape


def stored_bytes_per_token(
    shape: ModelShape, *, checkpointing: str, full: bool, targets: Targets, rank: int, dropout: float, width: int
) -> int:
    """Kept by all layers together.

    Nothing recomputed: everything. Selective: the inside of the MLP is recomputed. Full: only each
    layer's input is kept.
    `width` is the bytes of one activation, 2 or 4.
    """
    if checkpointing == "full":
        return shape.layers * shape.hidden_size * width
    saved = _layer(shape, full=full, targets=targets, rank=rank, dropout=dropout, width=width)
    if checkpointing == "selective":
        saved -= _mlp(shape, full=full, targets=targets, rank=rank, dropout=dropout, width=width)
    return shape.layers * saved


def recompute_bytes_per_token(
    shape: ModelShape, *, checkpointing: str, full: bool, targets: Targets, rank: int, dropout: float, width: int
) -> int:
    """Rebuilt for the one layer whose backward runs."""
    part = _layer if checkpointing == "full" else _mlp
    return part(shape, full=full, targets=targets, rank=rank, dropout=dropout, width=width)


def layer_bytes_per_token(shape: ModelShape, *, width: int) -> int:
    """Gradients in flight inside one layer's backward: the widest is in the MLP, beside the residual's."""
    return width * (2 * shape.hidden_size + 3 * shape.intermediate_size)


def _layer(shape: ModelShape, *, full: bool, targets: Targets, rank: int, dropout: float, width: int) -> int:
    mlp = _mlp(shape, full=full, targets=targets, rank=rank, dropout=dropout, width=width)
    return mlp + _attention(shape, full=full, targets=targets, rank=rank, dropout=dropout, width=width)


def _attention(shape: ModelShape, *, full: bool, targets: Targets, rank: int, dropout: float, width: int) -> int:
    """Norms, projections and the attention kernel, which keeps q, k, v, its output and one logsumexp per head."""
    hidden = shape.hidden_size
    kernel = width * (2 * shape.query_size + 2 * shape.key_value_size) + 4 * shape.heads
    adapters = _adapters(shape, role="attention", full=full, targets=targets, rank=rank, dropout=dropout, width=width)
    return shape.layer_norms * _norm(shape, full=full, width=width) + width * hidden + kernel + adapters


def _mlp(shape: ModelShape, *, full: bool, targets: Targets, rank: int, dropout: float, width: int) -> int:
    """The MLP's input, gate, activated gate, up and their product; without a gate two of the four."""
    adapted = full or _is_adapted(shape, "mlp", targets)
    inside = (4 if shape.gated_mlp else 2) if adapted else (3 if shape.gated_mlp else 1)
    kept = width * (inside * shape.intermediate_size + (shape.hidden_size if adapted else 0))
    return kept + _adapters(shape, role="mlp", full=full, targets=targets, rank=rank, dropout=dropout, width=width)


def _norm(shape: ModelShape, *, full: bool, width: int) -> int:
    """An RMS norm keeps its input in fp32 and, to learn its own weight, the normalised input."""
    if shape.norm == "layer":
        return width * shape.hidden_size + 8
    return 4 * shape.hidden_size + 4 + (width * shape.hidden_size if full else 0)


def _adapters(
    shape: ModelShape, *, role: str, full: bool, targets: Targets, rank: int, dropout: float, width: int
) -> int:
    """The low-rank middle of every adapter; dropout adds a copy and a mask of the adapter's input."""
    if full:
        return 0
    adapted = [linear for linear in shape.targets(targets) if linear.role == role]
    copies = [linear.copies / shape.layers for linear in adapted]
    middle = sum(copies) * width * rank
    dropped = sum(c * linear.in_features for c, linear in zip(copies, adapted, strict=True)) * (width + 1)
    return int(middle + (dropped if dropout else 0))


def _is_adapted(shape: ModelShape, role: str, targets: Targets) -> bool:
    return any(linear.role == role for linear in shape.targets(targets))
