"""Products with the base's weights whose rows do not depend on their number: the ground of every exact answer.

The library's own product of a row changes its last bits with the number of rows beside it, because another kernel is
taken: on an EPYC with MKL one, two, three, five, six, seven, nine, ten and eleven rows each differ from sixteen.
oneDNN's product with a weight that was laid out for it once gives each row the same bits in any number, and is faster
at that (docs/engine.md). Each shape is tried when a model is loaded; where it fails, rows go through sixteen at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, pad

PIECE_ROWS = 16
_SAME_STATES = {"attention": ("q_proj", "k_proj", "v_proj"), "gate": ("gate_proj", "up_proj")}
_TRIED_ROWS = (1, 2, 3, 5, 7, 9, 11, 17, 31, 33, 48, 64)
Product = Callable[[torch.Tensor], torch.Tensor]  # [rows, in] to [rows, out]


class SteadyLinear(nn.Module):
    """In place of a linear module: the same product, and the adapters' beside it where `thin` is set."""

    def __init__(self, stack: Stack, index: int, *, name: str) -> None:
        super().__init__()
        self._stack, self._index, self.name = stack, index, name
        self.in_features, self.out_features = stack.in_features, stack.sizes[index]
        self.thin: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        rows = states.reshape(-1, self.in_features)
        if not len(rows):
            return states.new_empty((*states.shape[:-1], self.out_features))
        made = self._stack.part(self._index, states, rows)
        if self.thin is not None:
            made = self.thin(self.name, rows, made)
        return made.view(*states.shape[:-1], self.out_features)


class Stack:
    """Linear modules that are given the same states, their weights over each other: one product is all of theirs.

    The first that is asked has it computed. What a neighbour is then asked for with the same tensor is there already;
    with another tensor it is computed anew, so a family that feeds them apart is slower and as right.
    """

    def __init__(self, product: Product, *, in_features: int, sizes: Sequence[int]) -> None:
        self._product, self.in_features, self.sizes = product, in_features, list(sizes)
        self._states: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}

    def part(self, index: int, states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """[rows, out] of one module; `rows` are `states` as [rows, in]."""
        if states is not self._states or index not in self._parts:
            self._states = states
            self._parts = dict(enumerate(self._product(rows).split(self.sizes, dim=1)))
        part = self._parts.pop(index)
        if not self._parts:
            self._states = None  # nothing is kept beyond its layer
        return part


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


def replace_linears(model: nn.Module, linears: Iterable[str], *, products: SteadyProducts) -> dict[str, SteadyLinear]:
    """Put a `SteadyLinear` in the place of each named module; their weights go, one stack after the other."""
    made = {}
    for names in _stacks(model, list(linears)):
        weights, biases = zip(*(_parameters(model.get_submodule(name)) for name in names), strict=True)
        bias = None if biases[0] is None else torch.cat(biases)
        product = products.of(torch.cat(weights) if len(weights) > 1 else weights[0], bias)
        stack = Stack(product, in_features=weights[0].shape[1], sizes=[len(weight) for weight in weights])
        for index, name in enumerate(names):
            parent, _, last = name.rpartition(".")
            made[name] = SteadyLinear(stack, index, name=name)
            setattr(model.get_submodule(parent), last, made[name])
    return made


def _stacks(model: nn.Module, linears: list[str]) -> list[list[str]]:
    """The names in groups: those of one parent that families feed with the same states, and all others alone."""
    groups: dict[str, list[str]] = {}
    for name in linears:
        parent, _, last = name.rpartition(".")
        kind = next((kind for kind, members in _SAME_STATES.items() if last in members), None)
        groups.setdefault(name if kind is None else f"{parent}:{kind}", []).append(name)
    return [part for group in groups.values() for part in _alike(model, group)]


def _alike(model: nn.Module, names: list[str]) -> list[list[str]]:
    """One group where columns and bias are alike, else each alone."""
    kinds = {(weight.shape[1], bias is None) for weight, bias in (_parameters(model.get_submodule(n)) for n in names)}
    return [names] if len(kinds) == 1 else [[name] for name in names]


def _parameters(module: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight [out, in] and bias."""
    weight = module.weight.T if type(module).__name__ == "Conv1D" else module.weight
    return weight.detach(), None if module.bias is None else module.bias.detach()


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
