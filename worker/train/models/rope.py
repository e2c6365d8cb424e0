"""Rotary angles that depend on the length of a row: of its own row alone, whatever it is packed with.

Long RoPE (arXiv 2402.13753) has one set of frequencies for rows within the original context and one for longer rows;
dynamic NTK scaling has one for each length beyond it. transformers decides by the largest position of a whole batch,
so that one long row would change all short ones beside it, and for dynamic scaling also all rows after it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.worker.train.attention.segments import Segments

_BY_LENGTH = ("longrope", "dynamic")


class RowLengths:
    """The segments of the batch that a model works on; they stand until the next one, for recomputation needs them."""

    def __init__(self) -> None:
        self.segments: Segments | None = None


def depend_on_own_row(model: nn.Module) -> RowLengths | None:
    """Let every rotary module of the model see rows one by one; None where no angle depends on a row's length."""
    lengths = RowLengths()
    modules = [module for module in model.modules() if _depends_on_length(module)]
    for module in modules:
        module.forward = _row_by_row(module, module.forward, lengths)
    return lengths if modules else None


def _depends_on_length(module: nn.Module) -> bool:
    kinds = getattr(module, "rope_type", None)
    listed = kinds.values() if isinstance(kinds, dict) else [kinds]
    return hasattr(module, "original_max_seq_len") and any(
        isinstance(kind, str) and any(name in kind for name in _BY_LENGTH) for kind in listed
    )


def _row_by_row(module: nn.Module, forward: Callable[..., Any], lengths: RowLengths) -> Callable[..., Any]:
    def angles(states: torch.Tensor, position_ids: torch.Tensor, *args: Any, **named: Any) -> Any:
        """Cosine and sine [1, tokens, head size] of each row's own angles."""
        segments = lengths.segments
        if segments is None or sum(segments.lengths) != position_ids.shape[-1]:  # generation, which packs nothing
            return forward(states, position_ids, *args, **named)
        parts = []
        for start, end in _groups(segments.lengths, original=_original_context(module)):
            _forget(module)
            parts.append(forward(states, position_ids[..., start:end], *args, **named))
        return tuple(torch.cat(tables, dim=1) for tables in zip(*parts, strict=True))

    return angles


def _groups(lengths: Sequence[int], *, original: int) -> Iterator[tuple[int, int]]:
    """Bounds [start, end) of neighbouring rows within the original context, and of each longer row alone."""
    start = end = 0
    for length in lengths:
        if length > original:
            if end > start:
                yield start, end
            yield end, end + length
            start = end + length
        end += length
    if end > start:
        yield start, end


def _original_context(module: Any) -> int:
    """Tokens up to which nothing is scaled: the fewest of all its kinds of layer."""
    parameters = getattr(module.config, "rope_parameters", None) or {}
    sets = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    named = [each["original_max_position_embeddings"] for each in sets if "original_max_position_embeddings" in each]
    return min([*named, int(module.original_max_seq_len)])


def _forget(module: Any) -> None:
    """Dynamic scaling keeps the frequencies of the longest row so far: start again from the original ones."""
    if "dynamic" in str(module.rope_type):
        module.max_seq_len_cached = module.original_max_seq_len
        module.inv_freq = module.original_inv_freq.to(module.inv_freq.device)
