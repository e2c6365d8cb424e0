"""Selective recomputation by operation: what is cheap to make again is not kept for the backward pass, products are.

Inside `rebuilding` a cheap operation tells how its output can be made again from tensors that are kept anyway (the
input of a norm, both halves of a gate). Whoever then saves that output, be it a matrix product of PyTorch or a pass of
ours, saves the way to make it instead; it is made once, by the first of its readers in the backward pass.
Cf. Korthikanti et al. (arXiv 2205.05198), who recompute attention, which our kernels do by themselves.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

Make = Callable[[], torch.Tensor]
_open: list["_Cheap"] = []  # a stack; training uses one thread, and autograd's threads only read what was packed


@contextmanager
def rebuilding() -> Iterator[None]:
    """Save nothing inside whose making `can_be_made` has told."""
    cheap = _Cheap()
    _open.append(cheap)
    try:
        with torch.autograd.graph.saved_tensors_hooks(cheap.pack, _unpack):
            yield
    finally:
        _open.remove(cheap)


def can_be_made(output: torch.Tensor, make: Make) -> None:
    """`make` gives a tensor equal to `output` whenever it is asked; it is asked without gradients."""
    if _open and torch.is_grad_enabled():
        _open[-1].outputs[_storage(output)] = output, _Recipe(make)


def kept(tensor: torch.Tensor) -> torch.Tensor:
    """What is kept in place of a tensor that cannot be made again: itself. Counting memory stands in here."""
    return tensor


@dataclass
class _Recipe:
    """How to make a tensor, and the tensor once it was made; it goes when the last of its readers is done."""

    make: Make
    made: torch.Tensor | None = None

    def tensor(self) -> torch.Tensor:
        if self.made is None:
            with torch.no_grad():
                self.made = self.make()
        return self.made


@dataclass
class _View:
    recipe: _Recipe
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


@dataclass
class _Cheap:
    """The outputs themselves are held until the context ends: their storage must not be given to another tensor."""

    outputs: dict[int, tuple[torch.Tensor, _Recipe]] = field(default_factory=dict)

    def pack(self, tensor: torch.Tensor) -> Any:
        known = self.outputs.get(_storage(tensor))
        if known is None:
            return kept(tensor)
        return _View(known[1], tensor.shape, tensor.stride(), int(tensor.storage_offset()))


def _unpack(packed: Any) -> torch.Tensor:
    if isinstance(packed, _View):
        return packed.recipe.tensor().as_strided(packed.shape, packed.stride, packed.offset)
    return packed


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - meta tensors have no address
