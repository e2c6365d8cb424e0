"""Attention of rows that belong to different sequences, each over its own keys and values.

Registered with transformers, so any model that supports attention backends uses it. What a row computes has a shape
that follows from its own sequence alone: a written token is one call over its sequence's keys, a prompt goes by blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunesmith.worker.inference.engine.compute.cache import BLOCK_TOKENS, KeyValueCache

NAME = "tunesmith_engine"


class WrittenRows:
    """The first rows of a batch, one a sequence: its newest token. Views are made for all layers at once."""

    def __init__(self, caches: Sequence[KeyValueCache]) -> None:
        self.count = len(caches)
        views = [cache.with_next_token() for cache in caches]
        self.places = [layer for _, _, *places in views for layer in places]
        self.known = [(keys, values) for keys, values, *_ in views]

    def store(self, layer: int, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
        """Put the rows' [heads, size] behind what the sequences have."""
        places = [place[layer] for place in self.places]
        torch._foreach_copy_(places[::2], list(keys))
        torch._foreach_copy_(places[1::2], list(values))


@dataclass(frozen=True)
class Span:
    """Neighbouring rows of a batch that are a block of one sequence's prompt."""

    cache: KeyValueCache
    first_row: int
    rows: int
    position: int  # of its first token in the sequence


@dataclass(frozen=True)
class Spans:
    """Whose the rows of a batch are: the written ones come first."""

    written: WrittenRows
    blocks: Sequence[Span]


@dataclass(frozen=True)
class Scores:
    """What a layer does to its scores before they are weights."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None  # [heads]


def register() -> None:
    """Make it known to transformers. No mask function stands beside it, so no mask over all rows is ever built."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - transformers passes it by position
    *,
    spans: Spans,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store the rows' keys and values, and attend.

    Args:
        query: [1, heads, rows, size]; key, value: [1, key-value heads, rows, size].

    Returns:
        [1, rows, heads, value size], and None in place of the weights.
    """
    scores = Scores(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux)
    layer, heads = int(module.layer_idx), key.shape[1]
    grouped = query[0].view(heads, -1, *query.shape[2:])
    made = _written(spans.written, grouped, key[0], value[0], layer=layer, scores=scores)
    made += [_block(span, grouped, key[0], value[0], layer=layer, scores=scores) for span in spans.blocks]
    return torch.cat(made).flatten(1, 2)[None], None


def _written(
    rows: WrittenRows, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, layer: int, scores: Scores
) -> list[torch.Tensor]:
    """[1, key-value heads, groups, size] of each."""
    if not rows.count:
        return []
    rows.store(layer, key[:, : rows.count].unbind(1), value[:, : rows.count].unbind(1))
    asked = query[:, :, : rows.count].permute(2, 0, 1, 3).unsqueeze(1).unbind(0)
    made = []
    for own, (keys, values) in zip(asked, rows.known, strict=True):
        seen, said = keys[layer], values[layer]
        if scores.window is not None and seen.shape[2] > scores.window:
            seen, said = seen[:, :, -scores.window :], said[:, :, -scores.window :]
        made.append(_attend(own, seen, said, mask=None, scores=scores))
    return made


def _block(
    span: Span, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, layer: int, scores: Scores
) -> torch.Tensor:
    """[rows, key-value heads, groups, size] of one span."""
    rows = slice(span.first_row, span.first_row + span.rows)
    keys, values = span.cache.keys[layer], span.cache.values[layer]
    end = span.position + BLOCK_TOKENS
    missing = BLOCK_TOKENS - span.rows
    keys[:, span.position : end] = pad(key[:, rows], (0, 0, 0, missing)) if missing else key[:, rows]
    values[:, span.position : end] = pad(value[:, rows], (0, 0, 0, missing)) if missing else value[:, rows]
    asked = query[:, :, rows]
    if missing:
        asked = pad(asked, (0, 0, 0, missing))
    heads, groups, _, size = asked.shape
    mask = _mask(span.position, groups=groups, window=scores.window)
    asked = asked.reshape(1, heads, groups * BLOCK_TOKENS, size)
    made = _attend(asked, keys[None, :, :end], values[None, :, :end], mask=mask, scores=scores)
    return made.view(heads, groups, BLOCK_TOKENS, -1)[:, :, : span.rows].permute(2, 0, 1, 3)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, mask: torch.Tensor | None, scores: Scores
) -> torch.Tensor:
    """[1, heads, rows, size]."""
    if scores.softcap is None and scores.sinks is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scores.scale)
    return _written_out(query[0], keys[0], values[0], mask=mask, scores=scores)[None]


def _written_out(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, mask: torch.Tensor | None, scores: Scores
) -> torch.Tensor:
    found = torch.matmul(query, keys.transpose(1, 2)) * scores.scale
    if scores.softcap is not None:
        found = torch.tanh(found / scores.softcap) * scores.softcap
    if mask is not None:
        found = found + mask
    if scores.sinks is None:
        return torch.matmul(found.softmax(-1), values)
    heads, rows, _ = found.shape
    sinks = scores.sinks.reshape(heads, -1, 1).repeat_interleave(rows // (len(scores.sinks) // heads), dim=1)
    return torch.matmul(torch.cat([found, sinks.to(found.dtype)], dim=-1).softmax(-1)[..., :-1], values)


_masks: dict[tuple[int, int, int | None], torch.Tensor] = {}


def _mask(position: int, *, groups: int, window: int | None) -> torch.Tensor:
    """Of a block that begins at `position`, [groups x block, position + block]; the one before it is forgotten."""
    name = (position, groups, window)
    if name not in _masks:
        if len(_masks) > 64:
            _masks.clear()
        rows = torch.arange(position, position + BLOCK_TOKENS)[:, None]
        columns = torch.arange(position + BLOCK_TOKENS)[None]
        hidden = columns > rows
        if window is not None:
            hidden |= columns <= rows - window
        _masks[name] = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf")).repeat(groups, 1)
    return _masks[name]
