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


@dataclass(frozen=True)
class Span:
    """Neighbouring rows of a batch that are one sequence's: a block of its prompt, or one written token."""

    cache: KeyValueCache
    first_row: int
    rows: int
    position: int  # of its first token in the sequence
    is_prompt: bool


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
    spans: Sequence[Span],
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
    layer, heads, groups = int(module.layer_idx), key.shape[1], query.shape[1] // key.shape[1]
    grouped = query[0].view(heads, groups, *query.shape[2:])
    made = [_span(span, grouped, key[0], value[0], layer=layer, scores=scores) for span in spans]
    whole = torch.cat(made, dim=2)  # [key-value heads, groups, rows, size]
    return whole.flatten(0, 1).transpose(0, 1)[None], None


def _span(
    span: Span, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, layer: int, scores: Scores
) -> torch.Tensor:
    """[key-value heads, groups, rows, size] of one span."""
    rows = slice(span.first_row, span.first_row + span.rows)
    keys, values = span.cache.keys[layer], span.cache.values[layer]
    end = span.position + (BLOCK_TOKENS if span.is_prompt else 1)
    missing = end - span.position - span.rows
    keys[:, span.position : end] = pad(key[:, rows], (0, 0, 0, missing)) if missing else key[:, rows]
    values[:, span.position : end] = pad(value[:, rows], (0, 0, 0, missing)) if missing else value[:, rows]
    asked = query[:, :, rows]
    if not span.is_prompt:
        begin = 0 if scores.window is None else max(0, end - scores.window)
        return _attend(asked, keys[:, begin:end], values[:, begin:end], mask=None, scores=scores)
    mask = _mask(span.position, groups=query.shape[1], window=scores.window)
    if missing:
        asked = pad(asked, (0, 0, 0, missing))
    made = _attend(asked, keys[:, :end], values[:, :end], mask=mask, scores=scores)
    return made[:, :, : span.rows]


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *, mask: torch.Tensor | None, scores: Scores
) -> torch.Tensor:
    heads, groups, rows, size = query.shape
    asked = query.reshape(heads, groups * rows, size)
    if scores.softcap is None and scores.sinks is None:
        whole = scaled_dot_product_attention(asked[None], keys[None], values[None], attn_mask=mask, scale=scores.scale)[
            0
        ]
    else:
        whole = _written_out(asked, keys, values, mask=mask, scores=scores)
    return whole.view(heads, groups, rows, -1)


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
