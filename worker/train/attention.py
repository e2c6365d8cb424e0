"""Attention for packed rows: each token sees the tokens before it in its own segment and nothing else.

Registered with transformers under `PACKED`, so any model that supports attention backends uses it. The segment bounds
are prepared once per batch and travel through the model as a keyword argument; nothing is read back from the device
during the forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.train.failures import user_error

PACKED = "packed"


@dataclass(frozen=True)
class Segments:
    """Bounds of the segments of one packed batch. cumulative: int32 [segments + 1] on the device."""

    lengths: tuple[int, ...]
    cumulative: torch.Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], *, device: torch.device) -> "Segments":
        """From the segments' lengths in their order."""
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
        return cls(lengths=tuple(lengths), cumulative=bounds, longest=max(lengths))


def register() -> None:
    """Make `PACKED` known to transformers. No mask function is registered beside it, so no dense mask is ever built."""
    ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - transformers passes it by position
    *,
    segments: Segments,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within segments.

    Args:
        query: [1, heads, tokens, head size]; key, value: [1, key-value heads, tokens, head size].

    Returns:
        [1, tokens, heads, head size], and None in place of the weights.
    """
    if softcap is not None or s_aux is not None or dropout:
        raise user_error(
            "model_not_supported",
            f"{type(module).__name__} needs capped scores, sinks or dropout in attention, which packing lacks.",
            hint="Choose a model of the Llama, Qwen, Mistral or Phi families.",
            param="model",
        )
    parts = [
        _causal(q, k, v, scaling=scaling, sliding_window=sliding_window)
        for q, k, v in zip(*(states.split(segments.lengths, dim=2) for states in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _causal(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float | None,
    sliding_window: int | None,
) -> torch.Tensor:
    """One segment. The window matters only where the segment is longer than it."""
    length = query.shape[2]
    grouped = query.shape[1] != key.shape[1]
    if sliding_window is None or length <= sliding_window:
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped)
    distance = torch.arange(length, device=query.device)[:, None] - torch.arange(length, device=query.device)
    visible = (distance >= 0) & (distance < sliding_window)
    return scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=scaling, enable_gqa=grouped)
