"""Attention for packed rows: each token sees the tokens before it in its own segment and nothing else.

Registered with transformers under `PACKED`, so any model that supports attention backends uses it. The segment bounds
are prepared once per batch and travel through the model as a keyword argument; nothing is read back from the device
during the forward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from worker.train.blocked_attention import blocked_attention
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


# query [tokens, heads, head size], key and value [tokens, key-value heads, head size] -> [tokens, heads, head size]
Kernel = Callable[..., torch.Tensor]


def register() -> None:
    """Make `PACKED` known to transformers. No mask function stands beside it, so no dense mask is ever built."""
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
    parts = (states[0].transpose(0, 1) for states in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return segment_attention(*parts, segments=segments, scale=scale, window=sliding_window)[None], None


def segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    segments: Segments,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention within each segment, over tokens in their packed order.

    Args:
        query: [tokens, heads, head size]; key, value: [tokens, key-value heads, head size].
        window: how many tokens back a token sees, itself included; None is all of its segment.
    """
    if window is not None and segments.longest <= window:
        window = None
    kernel = choose_kernel(query.device, query.dtype, window)
    return kernel(query, key, value, segments=segments, scale=scale, window=window)


def choose_kernel(device: torch.device, dtype: torch.dtype, window: int | None) -> Kernel:
    """The fastest kernel that is right here: FlashAttention on 16-bit CUDA, blocks on a CPU, else SDPA by segment."""
    if device.type == "cpu":
        return _blocked if window is None else _per_segment
    if dtype in (torch.bfloat16, torch.float16) and torch.cuda.get_device_capability(device) >= (8, 0):
        return _flash
    return _per_segment


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """The FlashAttention that PyTorch carries (Ampere and newer), which takes the segments' bounds as they are."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = segments.cumulative, segments.longest
    behind = -1 if window is None else window - 1
    output: torch.Tensor = varlen_attn(  # type: ignore[assignment]  # one tensor unless auxiliary outputs are asked for
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(behind, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output


def _blocked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    segments: Segments,
    scale: float,
    window: int | None,  # noqa: ARG001 - never set here
) -> torch.Tensor:
    return blocked_attention(query, key, value, lengths=segments.lengths, scale=scale)


def _per_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """PyTorch's own attention, one call per segment."""
    split = (states.transpose(0, 1)[None].split(segments.lengths, dim=2) for states in (query, key, value))
    parts = [
        scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_window_mask(q.shape[2], window, q.device),
            is_causal=window is None,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        for q, k, v in zip(*split, strict=True)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    if window is None:
        return None
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window)
