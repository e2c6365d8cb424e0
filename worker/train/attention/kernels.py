"""The kernels behind packed attention, by the names that a plan uses. Libraries are imported when they are used.

All take query [tokens, heads, head size], key and value [tokens, key-value heads, head size] and give
[tokens, heads, head size]: causal within each segment, weighted as the layer's `Scores` say.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.tuning.engine import shares_heads
from tunesmith.tuning.plan import Attention
from tunesmith.worker.train.attention.blocked import blocked_attention
from tunesmith.worker.train.attention.segments import Scores, Segments

Kernel = Callable[..., torch.Tensor]


def flash_attention_4(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    """The package flash_attn_4 behind PyTorch's own entry, for Hopper and data-centre Blackwell."""
    _stand_behind_pytorch("FA4")
    return _varlen(*states, segments=segments, scores=scores)


def flash_attention_3(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    """The package flash_attn_3, for Hopper."""
    return _packaged_flash("flash_attn_interface", *states, segments=segments, scores=scores)


def flash_attention_2(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    """The package flash_attn, for Ampere and newer."""
    return _packaged_flash("flash_attn", *states, segments=segments, scores=scores)


def torch_flash(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    """The FlashAttention that PyTorch carries, for Ampere and newer."""
    _stand_behind_pytorch(None)
    return _varlen(*states, segments=segments, scores=scores)


def flex(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    """FlexAttention, compiled on a GPU; elsewhere PyTorch computes its definition, with all scores at once."""
    query, key, value = (part.transpose(0, 1)[None] for part in states)
    attend = _compiled_flex() if query.is_cuda else _flex()
    output = attend(
        query,
        key,
        value,
        score_mod=_capped_by(scores.softcap),
        block_mask=segments.block_mask(scores.window),
        scale=scores.scale,
        enable_gqa=query.shape[1] != key.shape[1],
        return_aux=None if scores.sinks is None else _with_log_sums(),
    )
    if scores.sinks is None:
        return output[0].transpose(0, 1)
    attended, beside = output
    # exp(score) / (sum + exp(sink)) is exp(score) / sum times sigmoid(log sum - sink)
    share = torch.sigmoid(beside.lse - scores.sinks.float()[:, None])
    return (attended * share[..., None].to(attended.dtype))[0].transpose(0, 1)


def sdpa(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    """PyTorch's own attention, one call per segment; with capped scores or sinks it is written out."""
    attend = _plain if scores.softcap is None and scores.sinks is None else _written_out
    split = (part.transpose(0, 1)[None].split(segments.lengths, dim=2) for part in states)
    parts = [attend(query, key, value, scores=scores) for query, key, value in zip(*split, strict=True)]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def blocked(*states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    """Our own for CPUs; a layer with sinks goes through PyTorch's."""
    if scores.sinks is not None:
        return sdpa(*states, segments=segments, scores=scores)
    return blocked_attention(
        *states, lengths=segments.lengths, scale=scores.scale, window=scores.window, softcap=scores.softcap
    )


KERNELS: dict[Attention, Kernel] = {
    "flash_attention_4": flash_attention_4,
    "flash_attention_3": flash_attention_3,
    "flash_attention_2": flash_attention_2,
    "torch_flash": torch_flash,
    "flex": flex,
    "sdpa": sdpa,
    "blocked": blocked,
}


def _varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, segments: Segments, scores: Scores
) -> torch.Tensor:
    """PyTorch's entry for packed rows; older ones have no windows, or no grouped heads."""
    from torch.nn.attention.varlen import varlen_attn

    _require_plain("PyTorch's FlashAttention", scores, caps=False)
    known = inspect.signature(varlen_attn).parameters
    named: dict[str, Any] = {"scale": scores.scale}
    if "window_size" in known:
        named["window_size"] = _behind_and_ahead(scores.window)
    elif scores.window is None:
        named["is_causal"] = True
    else:
        raise NotImplementedError("this PyTorch's varlen_attn has no sliding windows")
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            named["enable_gqa"] = True
        else:
            key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    bounds, longest = segments.cumulative, segments.longest
    output: torch.Tensor = varlen_attn(query, key, value, bounds, bounds, longest, longest, **named)  # type: ignore[assignment]
    return output


def _packaged_flash(module: str, *states: torch.Tensor, segments: Segments, scores: Scores) -> torch.Tensor:
    query, key, value = states
    _require_plain(module, scores, caps=True)
    output = importlib.import_module(module).flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens_q=segments.cumulative,
        cu_seqlens_k=segments.cumulative,
        max_seqlen_q=segments.longest,
        max_seqlen_k=segments.longest,
        softmax_scale=scores.scale,
        causal=True,
        window_size=_behind_and_ahead(scores.window),
        **({} if scores.softcap is None else {"softcap": scores.softcap}),  # versions before 2.6 do not know it
    )
    attended: torch.Tensor = output[0] if isinstance(output, tuple) else output  # some versions add the logsumexp
    return attended


def _require_plain(name: str, scores: Scores, *, caps: bool) -> None:
    """The planner and the trial keep such layers away; a kernel must not ignore what it cannot compute."""
    if scores.sinks is not None or (scores.softcap is not None and not caps):
        raise NotImplementedError(f"{name} has no {'sinks' if caps else 'capped scores or sinks'}")


def _stand_behind_pytorch(implementation: str | None) -> None:
    """Let PyTorch's entry lead to a newer FlashAttention, or (None) to the one that it carries."""
    from torch.nn import attention

    if not hasattr(attention, "current_flash_attention_impl"):  # older than the choice
        if implementation is not None:
            raise NotImplementedError("this PyTorch has no way to activate it")
    elif implementation != attention.current_flash_attention_impl():
        if implementation is None:
            attention.restore_flash_attention_impl()
        else:
            attention.activate_flash_attention_impl(implementation)


def _behind_and_ahead(window: int | None) -> tuple[int, int]:
    """Tokens before and after itself that a token sees; -1 is all of them."""
    return (-1 if window is None else window - 1), 0


def _flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


def _with_log_sums() -> Any:
    from torch.nn.attention.flex_attention import AuxRequest

    return AuxRequest(lse=True)


@lru_cache(maxsize=1)
def _compiled_flex() -> Callable[..., Any]:
    """Compiled for lengths that change with every batch."""
    return torch.compile(_flex(), dynamic=True)


@lru_cache(maxsize=8)
def _capped_by(softcap: float | None) -> Callable[..., torch.Tensor] | None:
    """FlexAttention's modification of a score; one function a cap, because each new one is compiled anew."""
    if softcap is None:
        return None
    import torch._dynamo

    # Else a second cap in one process becomes an input of the compiled kernel, and PyTorch 2.13 fails at that.
    torch._dynamo.config.specialize_float = True  # noqa: SLF001 - its public home

    def capped(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


def _plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scores: Scores) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and not shares_heads(_capability(query)):
        key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=None if scores.window is None else _visible(query.shape[2], scores.window, query.device),
        is_causal=scores.window is None,
        scale=scores.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _capability(states: torch.Tensor) -> tuple[int, int] | None:
    """Of the GPU that holds them; None is a CPU."""
    return torch.cuda.get_device_capability(states.device) if states.is_cuda else None


def _written_out(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scores: Scores) -> torch.Tensor:
    """[1, heads, length, head size] of one segment, all its scores at once, softmax in fp32."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    products = (query @ key.transpose(2, 3) * scores.scale).float()
    if scores.softcap is not None:
        products = scores.softcap * torch.tanh(products / scores.softcap)
    products = products.masked_fill(~_visible(query.shape[2], scores.window, query.device), float("-inf"))
    if scores.sinks is None:
        weights = torch.softmax(products, dim=-1)
    else:
        sinks = scores.sinks.float()[None, :, None, None].expand(*products.shape[:3], 1)
        weights = torch.softmax(torch.cat([products, sinks], dim=-1), dim=-1)[..., :-1]
    return weights.to(value.dtype) @ value


def _visible(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    places = torch.arange(length, device=device)
    distance = places[:, None] - places
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)
