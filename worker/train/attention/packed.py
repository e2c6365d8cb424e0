"""Attention for packed rows: each token sees the tokens before it in its own segment and nothing else.

Registered with transformers under `PACKED`, so any model that supports attention backends uses it. The segments
(`worker.train.attention.segments`) travel through the model as a keyword argument and name the kernel
(`worker.train.attention.kernels`); nothing is read back from the device during the forward pass.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.train.attention.kernels import KERNELS
from tunesmith.worker.train.attention.segments import Scores, Segments
from tunesmith.worker.train.failures import user_error

PACKED = "packed"


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
    if dropout:
        raise user_error(
            ErrorCode.MODEL_NOT_SUPPORTED,
            f"{type(module).__name__} drops attention weights at random, which packing lacks.",
            hint="Choose a model of the Llama, Qwen, Mistral or Phi families.",
            param="model",
        )
    parts = (states[0].transpose(0, 1) for states in (query, key, value))
    scores = Scores(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
    )
    return segment_attention(*parts, segments=segments, scores=scores)[None], None


def segment_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, segments: Segments, scores: Scores
) -> torch.Tensor:
    """Causal attention within each segment, over tokens in their packed order, through the segments' kernel.

    Args:
        query: [tokens, heads, head size]; key, value: [tokens, key-value heads, head size]. Values may be of another
            size, as in latent attention (DeepSeek): kernels want one size, so zeros fill the smaller one.
    """
    if scores.window is not None and segments.longest <= scores.window:
        scores = replace(scores, window=None)
    missing = query.shape[-1] - value.shape[-1]
    if missing:
        query, key = (pad(states, (0, max(0, -missing))) for states in (query, key))
        attended = segment_attention(query, key, pad(value, (0, max(0, missing))), segments=segments, scores=scores)
        return attended[..., : attended.shape[-1] - max(0, missing)]
    return KERNELS[segments.attention](query, key, value, segments=segments, scores=scores)
