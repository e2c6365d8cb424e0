"""What the FlashAttention libraries compute, in plain formulas under their own signatures: they run on GPUs only."""

from typing import Any

import torch


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
) -> Any:
    """As flash_attn 2 and 3 define it; a window of -1 is unlimited, `causal` forbids what comes later."""
    assert causal
    assert cu_seqlens_q.dtype == torch.int32
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
    return definition(q, k, v, cu_seqlens_q, scale=softmax_scale, window=(window_size[0], 0), softcap=softcap)


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """As torch.nn.attention.varlen defines it: causal is a window of 0 ahead."""
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert enable_gqa == (query.shape[1] != key.shape[1])
    return definition(query, key, value, cu_seq_q, scale=scale, window=window_size)


def definition(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    *,
    scale: float | None,
    window: tuple[int, int],
    softcap: float = 0.0,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax over the keys of a query's own sequence, from `window[0]` behind it to `window[1]` ahead of it."""
    tokens, heads, size = query.shape
    owner = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff().long())
    places = torch.arange(tokens)
    distance = places[:, None] - places
    behind, ahead = (tokens if limit < 0 else limit for limit in window)
    visible = (owner[:, None] == owner) & (distance <= behind) & (distance >= -ahead)
    groups = heads // key.shape[1]
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(groups, 1))
    scores = scores * (size**-0.5 if scale is None else scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(heads, tokens, 1)], dim=-1)
    weights = scores.softmax(-1)[..., :tokens]
    return torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(groups, 1))
