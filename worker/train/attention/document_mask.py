"""FlexAttention's block mask for packed segments, from their lengths alone.

PyTorch's `create_block_mask` evaluates the mask for every pair of tokens; here it follows from two facts: the first
token that a token sees never moves back, and the last one is itself.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from tunesmith.worker.train.device_copy import to_device

BLOCK = 128  # tokens; the kernels' own choice


def document_mask(lengths: Sequence[int], *, window: int | None, device: torch.device) -> BlockMask:
    """Causal, within segments, and at most `window` tokens back (itself included)."""
    first = first_visible(lengths, window=window)
    seen = to_device(torch.from_numpy(first), device)

    def is_visible(_batch: torch.Tensor, _head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (key >= seen[query])

    (partial_number, partial), (full_number, full) = (
        [to_device(torch.from_numpy(values[None, None]), device) for values in table] for table in _blocks(first)
    )
    return BlockMask.from_kv_blocks(
        partial_number,
        partial,
        full_number,
        full,
        BLOCK_SIZE=BLOCK,
        mask_mod=is_visible,
        seq_lengths=(len(first), len(first)),
    )


def first_visible(lengths: Sequence[int], *, window: int | None) -> np.ndarray:
    """The first token that each token sees: int64 [tokens]."""
    starts = np.cumsum([0, *lengths[:-1]])
    first = np.repeat(starts, lengths).astype(np.int64)
    if window is not None:
        first = np.maximum(first, np.arange(len(first)) - window + 1)
    return first


def _blocks(first: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(count [blocks], indices [blocks, blocks]) of the key blocks that each query block sees in part, and wholly."""
    tokens = len(first)
    number = -(-tokens // BLOCK)
    partial, full = [], []
    for block in range(number):
        earliest = int(first[block * BLOCK])
        end = (block + 1) * BLOCK
        # What the last token sees all before it see too. An incomplete last block sees nothing wholly, says PyTorch.
        whole_from = block if end > tokens else min(block, -(-int(first[end - 1]) // BLOCK))
        partial.append([*range(earliest // BLOCK, whole_from), block])
        full.append(list(range(whole_from, block)))
    return _table(partial), _table(full)


def _table(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    indices = np.zeros((len(rows), len(rows)), dtype=np.int32)
    for row, values in enumerate(rows):
        indices[row, : len(values)] = values
    return np.array([len(row) for row in rows], dtype=np.int32), indices
