"""Causal attention by blocks of queries, for CPUs: large matrix products instead of many small tiles.

PyTorch's CPU kernel reaches 35 GFLOP/s on segments of 170 tokens in bf16 on one AVX-512 core where a plain matrix
product reaches 180; the same attention written as products of whole blocks takes a third of the time, forward and
backward. Scores that no query may see are wasted where a block's edge cuts them off, so blocks are small. The backward
pass recomputes the probabilities: nothing is kept but the inputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

BLOCK = 128


def blocked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    lengths: Sequence[int],
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal attention within consecutive segments of `lengths` tokens.

    Args:
        query: [tokens, heads, head size]; key, value: [tokens, key-value heads, head size].
        window: how many tokens back a token sees, itself included.
        softcap: scores become softcap * tanh(score / softcap).

    Returns:
        [tokens, heads, head size].
    """
    output: torch.Tensor = _BlockedAttention.apply(query, key, value, tuple(lengths), scale, window, softcap)
    return output


@dataclass(frozen=True)
class _Block:
    """Queries first..last-1 of a segment, and the first key that any of them sees."""

    first: int
    last: int
    earliest: int

    @property
    def keys(self) -> slice:
        return slice(self.earliest, self.last)


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: tuple[int, ...],
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Heads that share a key-value head become rows of one product: [key-value heads, group * block, head size]."""
        output = torch.empty_like(query)
        for start, end in _segments(lengths):
            q, k, v = (_by_head(states[start:end]) for states in (query, key, value))
            k = k * scale
            parts = [
                torch.bmm(_probabilities(_rows(q, block, k), k, block, window, softcap)[0], v[:, block.keys])
                for block in _blocks(end - start, window)
            ]
            _store(output[start:end], parts, groups=query.shape[1] // key.shape[1])
        ctx.save_for_backward(query, key, value)
        ctx.settings = lengths, scale, window, softcap
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """dV = P'dO, dS = P * (dOV' - rowsum), dQ = dS K, dK = dS'Q, one block of queries at a time."""
        query, key, value = ctx.saved_tensors
        lengths, scale, window, softcap = ctx.settings
        grad_query, grad_key, grad_value = (torch.empty_like(states) for states in (query, key, value))
        for start, end in _segments(lengths):
            q, k, v, g = (_by_head(states[start:end]) for states in (query, key, value, grad))
            k = k * scale
            # Sums over blocks of queries are kept in fp32; a single block needs no sum.
            kind = q.dtype if end - start <= BLOCK else torch.float32
            dk, dv = torch.zeros_like(k, dtype=kind), torch.zeros_like(v, dtype=kind)
            parts = []
            for block in _blocks(end - start, window):
                rows, grads = _rows(q, block, k), _rows(g, block, k)
                probabilities, slope = _probabilities(rows, k, block, window, softcap)
                dv[:, block.keys] += torch.bmm(probabilities.transpose(1, 2), grads)
                dp = torch.bmm(grads, v[:, block.keys].transpose(1, 2))
                ds = torch._softmax_backward_data(dp, probabilities, -1, dp.dtype)  # noqa: SLF001 - the operator itself
                if slope is not None:
                    ds.mul_(slope)
                parts.append(torch.bmm(ds, k[:, block.keys]))
                dk[:, block.keys] += torch.bmm(ds.transpose(1, 2), rows)
            _store(grad_query[start:end], parts, groups=query.shape[1] // key.shape[1])
            grad_key[start:end] = (dk * scale).transpose(0, 1)
            grad_value[start:end] = dv.transpose(0, 1)
        return grad_query, grad_key, grad_value, None, None, None, None


def _probabilities(
    rows: torch.Tensor, key: torch.Tensor, block: _Block, window: int | None, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Softmax over a block's keys: [key-value heads, group * block, keys]; and the slope of the cap, if any."""
    scores = torch.bmm(rows, key[:, block.keys].transpose(1, 2))
    slope = None
    if softcap is not None:
        scores.div_(softcap).tanh_()
        slope = 1 - scores.square()
        scores.mul_(softcap)
    size, width = block.last - block.first, block.last - block.earliest
    by_query = scores.view(scores.shape[0], -1, size, width)
    by_query[..., block.first - block.earliest :].add_(_future(size, scores.dtype))  # a third of masked_fill_'s time
    if window is not None and block.last - window > block.earliest:
        by_query.add_(_past(block, window, scores.dtype))
    return torch.softmax(scores, dim=-1), slope


def _by_head(states: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, size] -> [heads, tokens, size], contiguous."""
    return states.transpose(0, 1).contiguous()


def _rows(states: torch.Tensor, block: _Block, key: torch.Tensor) -> torch.Tensor:
    """A block's positions in all heads that share a key-value head: [key-value heads, group * block, size]."""
    return states[:, block.first : block.last].reshape(key.shape[0], -1, states.shape[-1])


def _store(target: torch.Tensor, parts: list[torch.Tensor], *, groups: int) -> None:
    """Put blocks of [key-value heads, group * block, size] back into [tokens, heads, size]."""
    first = 0
    for part in parts:
        shared, rows, size = part.shape
        length = rows // groups
        block = part.view(shared * groups, length, size)
        target[first : first + length] = block.transpose(0, 1)
        first += length


def _segments(lengths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    start = 0
    for length in lengths:
        yield start, start + length
        start += length


def _blocks(length: int, window: int | None) -> Iterator[_Block]:
    for first in range(0, length, BLOCK):
        earliest = 0 if window is None else max(0, first - window + 1)
        yield _Block(first, min(first + BLOCK, length), earliest)


@lru_cache(maxsize=BLOCK + 1)
def _future(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Minus infinity above the diagonal, else zero: [size, size]."""
    return torch.full((size, size), float("-inf"), dtype=dtype).triu_(1)


@lru_cache(maxsize=64)
def _past(block: _Block, window: int, dtype: torch.dtype) -> torch.Tensor:
    """Minus infinity where a key is further back than the window, else zero: [block, keys]."""
    queries = torch.arange(block.first, block.last)[:, None]
    keys = torch.arange(block.earliest, block.last)
    return torch.zeros(len(queries), len(keys), dtype=dtype).masked_fill_(queries - keys >= window, float("-inf"))
