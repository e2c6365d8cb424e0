"""Products with the base's weights whose rows do not depend on their number: the ground of every exact answer.

The library's own product of a row changes its last bits with the number of rows beside it, because another kernel is
taken: on an EPYC with MKL one, two, three, five, six, seven, nine, ten and eleven rows each differ from sixteen.
oneDNN's product with a weight that was laid out for it once gives each row the same bits in any number, and is faster
at that (docs/engine.md). Each shape is tried when a model is loaded; where it fails, rows go through sixteen at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, pad

PIECE_ROWS = 16
_TRIED_ROWS = (1, 2, 3, 5, 7, 9, 11, 17, 31, 33, 48, 64)
Product = Callable[[torch.Tensor], torch.Tensor]  # [rows, in] to [rows, out]


class SteadyLinear(nn.Module):
    """In place of a linear module: the same product, and the adapters' beside it where `thin` is set."""

    def __init__(self, product: Product, *, in_features: int, out_features: int, name: str) -> None:
        super().__init__()
        self._product, self.in_features, self.out_features, self.name = product, in_features, out_features, name
        self.thin: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        rows = states.reshape(-1, self.in_features)
        if not len(rows):
            return states.new_empty((*states.shape[:-1], self.out_features))
        made = self._product(rows)
        if self.thin is not None:
            made = self.thin(self.name, rows, made)
        return made.view(*states.shape[:-1], self.out_features)


class SteadyProducts:
    """Makes them, and remembers which shapes passed."""

    def __init__(self) -> None:
        self._passed: dict[tuple[int, ...], bool] = {}

    def of(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
        """The product with a weight [out, in]. The weight itself is not kept where the laid-out one is enough."""
        shape = (*weight.shape, int(bias is not None))
        if self._passed.get(shape, _has_onednn()):
            product = _laid_out(weight, bias)
            if shape not in self._passed:
                self._passed[shape] = is_steady(product, columns=weight.shape[1], dtype=weight.dtype)
            if self._passed[shape]:
                return product
        return _in_pieces(weight, bias)

    @property
    def in_pieces(self) -> list[tuple[int, ...]]:
        """Shapes that failed."""
        return [shape for shape, passed in self._passed.items() if not passed]


def is_steady(product: Product, *, columns: int, dtype: torch.dtype = torch.float32) -> bool:
    """Whether random rows have the same bits in every number tried, wherever among the others they stand."""
    rows = torch.randn(max(_TRIED_ROWS), columns, generator=torch.Generator().manual_seed(0)).to(dtype)
    whole = product(rows)
    return all(
        torch.equal(product(rows[:count].contiguous()), whole[:count])
        and torch.equal(product(rows[-count:].contiguous()), whole[-count:])
        for count in _TRIED_ROWS
    )


def weight_of(product: Product, *, columns: int) -> torch.Tensor:
    """The weight [out, in] of a product without bias, read back to the last bit."""
    return product(torch.eye(columns)).T.contiguous()


def replace_linears(model: nn.Module, linears: Iterable[str], *, products: SteadyProducts) -> dict[str, SteadyLinear]:
    """Put a `SteadyLinear` in the place of each named module; their weights go, one by one."""
    made = {}
    for name in linears:
        parent, _, last = name.rpartition(".")
        module: Any = model.get_submodule(name)
        weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
        product = products.of(weight.detach(), None if module.bias is None else module.bias.detach())
        made[name] = SteadyLinear(product, in_features=weight.shape[1], out_features=weight.shape[0], name=name)
        setattr(model.get_submodule(parent), last, made[name])
    return made


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _laid_out(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PIECE_ROWS)  # noqa: SLF001
    multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 - what compiled models use; there is no public name

    def product(rows: torch.Tensor) -> torch.Tensor:
        return multiply(rows, laid_out, bias, "none", [], "")

    return product


def _in_pieces(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    kept = weight.contiguous()

    def product(rows: torch.Tensor) -> torch.Tensor:
        filled = pad(rows, (0, 0, 0, -len(rows) % PIECE_ROWS))
        made = [linear(piece, kept, bias) for piece in filled.split(PIECE_ROWS)]
        return torch.cat(made)[: len(rows)]

    return product
