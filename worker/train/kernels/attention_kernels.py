"""The kernels behind packed attention, by the names that a plan uses. Libraries are imported when they are used.

All take query [tokens, heads, head size], key and value [tokens, key-value heads, head size] and give
[tokens, heads, head size]: causal within each segment, `window` tokens back at most, itself included.
"""

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tuning.plan import Attention
from worker.train.kernels.blocked_attention import blocked_attention
from worker.train.kernels.segments import Segments

Kernel = Callable[..., torch.Tensor]


def flash_attention_3(*states: torch.Tensor, segments: Segments, scale: float, window: int | None) -> torch.Tensor:
    """The package flash_attn_3, for Hopper."""
    return _packaged_flash("flash_attn_interface", *states, segments=segments, scale=scale, window=window)


def flash_attention_2(*states: torch.Tensor, segments: Segments, scale: float, window: int | None) -> torch.Tensor:
    """The package flash_attn, for Ampere and newer."""
    return _packaged_flash("flash_attn", *states, segments=segments, scale=scale, window=window)


def torch_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    segments: Segments,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """The FlashAttention that PyTorch carries, for Ampere and newer."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = segments.cumulative, segments.longest
    output: torch.Tensor = varlen_attn(  # type: ignore[assignment]  # one tensor unless auxiliary outputs are asked for
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=_behind_and_ahead(window),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output


def flex(*states: torch.Tensor, segments: Segments, scale: float, window: int | None) -> torch.Tensor:
    """FlexAttention, compiled on a GPU; elsewhere PyTorch computes its definition, with all scores at once."""
    query, key, value = (part.transpose(0, 1)[None] for part in states)
    attend = _compiled_flex() if query.is_cuda else _flex()
    grouped = query.shape[1] != key.shape[1]
    output = attend(query, key, value, block_mask=segments.block_mask(window), scale=scale, enable_gqa=grouped)
    return output[0].transpose(0, 1)


def sdpa(*states: torch.Tensor, segments: Segments, scale: float, window: int | None) -> torch.Tensor:
    """PyTorch's own attention, one call per segment."""
    split = (part.transpose(0, 1)[None].split(segments.lengths, dim=2) for part in states)
    parts = [
        scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=_window_mask(query.shape[2], window, query.device),
            is_causal=window is None,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        for query, key, value in zip(*split, strict=True)
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def blocked(*states: torch.Tensor, segments: Segments, scale: float, window: int | None) -> torch.Tensor:
    """Our own for CPUs; a layer whose window is shorter than a segment goes through PyTorch's."""
    if window is not None:
        return sdpa(*states, segments=segments, scale=scale, window=window)
    return blocked_attention(*states, lengths=segments.lengths, scale=scale)


KERNELS: dict[Attention, Kernel] = {
    "flash_attention_3": flash_attention_3,
    "flash_attention_2": flash_attention_2,
    "torch_flash": torch_flash,
    "flex": flex,
    "sdpa": sdpa,
    "blocked": blocked,
}


def _packaged_flash(
    module: str, *states: torch.Tensor, segments: Segments, scale: float, window: int | None
) -> torch.Tensor:
    query, key, value = states
    output = importlib.import_module(module).flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=segments.cumulative,
        cu_seqlens_k=segments.cumulative,
        max_seqlen_q=segments.longest,
        max_seqlen_k=segments.longest,
        softmax_scale=scale,
        causal=True,
        window_size=_behind_and_ahead(window),
    )
    attended: torch.Tensor = output[0] if isinstance(output, tuple) else output  # some versions add the logsumexp
    return attended


def _behind_and_ahead(window: int | None) -> tuple[int, int]:
    """Tokens before and after itself that a token sees; -1 is all of them."""
    return (-1 if window is None else window - 1), 0


def _flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    """Compiled for lengths that change with every batch."""
    return torch.compile(_flex(), dynamic=True)


def _window_mask(length: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    if window is None:
        return None
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    return (distance >= 0) & (distance < window)
