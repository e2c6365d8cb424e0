"""Products of rows with the matrix of their group, for rows that lie sorted by group.

`torch.nn.functional.grouped_mm` does it in one launch for bf16 on GPUs of compute capability 8.0 and higher; everywhere
else each group that has rows is multiplied for itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

ALIGNMENT = 8  # elements: the kernel wants rows of whole 16 bytes
KERNEL_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Groups:
    """Where groups end: int32 [groups] for the kernel, else `bounds`; on the meta device nothing is known."""

    count: int
    ends: torch.Tensor
    bounds: tuple[int, ...] | None = None

    @classmethod
    def of(cls, numbers: torch.Tensor, *, count: int, dtype: torch.dtype) -> "Groups":
        """Of sorted group numbers [rows] of rows in `dtype`. Reads them back from the device where no kernel helps."""
        first = torch.arange(1, count + 1, device=numbers.device, dtype=numbers.dtype)
        ends = torch.searchsorted(numbers, first).to(torch.int32)
        if numbers.is_meta or _has_kernel(numbers.device, dtype):
            return cls(count, ends)
        return cls(count, ends, tuple(ends.tolist()))

    def filled(self) -> Iterator[tuple[int, slice]]:
        """Groups that have rows, with their rows."""
        start = 0
        for group, end in enumerate(self.bounds or ()):
            if start < end:
                yield group, slice(start, end)
            start = end


def product(rows: torch.Tensor, matrices: torch.Tensor, groups: Groups) -> torch.Tensor:
    """rows [n, in] x matrices [groups, in, out] -> [n, out]."""
    if groups.bounds is None and not rows.is_meta:
        return functional.grouped_mm(rows, matrices, offs=groups.ends)
    output = rows.new_empty(len(rows), matrices.shape[-1])
    for group, own in groups.filled():
        torch.mm(rows[own], matrices[group], out=output[own])
    return output


def outer(left: torch.Tensor, right: torch.Tensor, groups: Groups) -> torch.Tensor:
    """left [n, a]' x right [n, b], each group's rows for themselves -> [groups, a, b]; zeros for a group without."""
    if groups.bounds is None and not left.is_meta:
        return functional.grouped_mm(left.T, right, offs=groups.ends)
    output = left.new_zeros(groups.count, left.shape[1], right.shape[1])
    for group, own in groups.filled():
        torch.mm(left[own].T, right[own], out=output[group])
    return output


def padded_rank(rank: int, dtype: torch.dtype) -> int:
    """Thin factors in 16 bits are filled up with zeros to what the kernel takes."""
    return rank if dtype.itemsize > 2 else -(-rank // ALIGNMENT) * ALIGNMENT


def _has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    if device.type != "cuda" or dtype is not torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(device) >= KERNEL_CAPABILITY
