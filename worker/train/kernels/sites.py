"""One frozen linear and, perhaps, its adapter, as the fused passes see it: products and their gradients.

What this saves over autograd on PEFT's modules: the input of a projection is kept once however many adapters read it;
adapters multiply in the compute dtype while their masters stay fp32; gradients are added into their place by the matrix
product itself; a 4-bit weight is dequantised when it is used and not kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from tunesmith.worker.train.kernels.float8 import Float8Weight

Tensors = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class Site:
    """y = x W' + b + scale (drop(x) A') B'. A [rank, in] and B [out, rank]; without an adapter they are None.

    With a magnitude m [out] it is DoRA (arXiv 2402.09353): the rows of W + scale B A are turned to length m.
    """

    base: nn.Module
    down: nn.Parameter | None
    up: nn.Parameter | None
    scale: float
    transposed: bool = False  # Conv1D keeps its weight as [in, out]
    dropout: nn.Dropout | None = None
    magnitude: nn.Parameter | None = None
    _squares: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)

    @property
    def is_plain(self) -> bool:
        """Whether the passes over whole blocks can take it: no dropout, no magnitude."""
        return self.dropout is None and self.magnitude is None

    @property
    def factors(self) -> tuple[nn.Parameter | None, nn.Parameter | None]:
        """What learns of a plain site."""
        return self.down, self.up

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """W [out, in]; one of 4 or 8 bits is dequantised at each call."""
        held: Float8Weight | None = getattr(self.base, "float8", None)
        if held is not None:
            return held.dequantized(dtype)
        weight: torch.Tensor = self.base.weight  # type: ignore[assignment]
        state = getattr(weight, "quant_state", None)
        if state is not None:
            from bitsandbytes.functional import dequantize_4bit

            return dequantize_4bit(weight.data, state).to(dtype)
        return weight.T if self.transposed else weight

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x W' + b for x [tokens, in]."""
        bias: torch.Tensor | None = self.base.bias  # type: ignore[assignment]
        narrow: Float8Weight | None = getattr(self.base, "float8", None)
        if narrow is not None:
            return narrow.product(x, bias)
        return nn.functional.linear(x, self.weight(x.dtype), bias)

    def input_gradient(self, grad: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
        """grad W for grad [tokens, out], added to `into` where that is given."""
        narrow: Float8Weight | None = getattr(self.base, "float8", None)
        if narrow is not None:
            found = narrow.input_gradient(grad)
            return found if into is None else into.add_(found)
        weight = self.weight(grad.dtype)
        return grad @ weight if into is None else into.addmm_(grad, weight)

    def row_lengths(self) -> torch.Tensor:
        """Lengths of the rows of W + scale B A, fp32 [out], without ever making that matrix.

        |w + s b A|^2 = |w|^2 + 2 s b (A w') + s^2 b (A A') b'; the squares of W are computed once.
        """
        assert self.down is not None  # noqa: S101 - a magnitude stands beside an adapter
        assert self.up is not None  # noqa: S101
        weight = self.weight(self.down.dtype)
        down, up = self.down.detach().float(), self.up.detach().float()
        if not self._squares:
            self._squares.append(torch.cat([part.float().square().sum(dim=1) for part in weight.split(1024)]))
        across = (weight @ down.to(weight.dtype).T).float()
        squares = self._squares[0] + (2 * self.scale * across + self.scale**2 * (up @ (down @ down.T))).mul_(up).sum(1)
        return squares.sqrt_()


@dataclass
class Rounded:
    """Adapters of the sites that have one, side by side in the compute dtype, from the forward to the backward pass.

    down: [sum of ranks, in]; ups: [out, rank] each. Empty without adapters.
    """

    adapted: list[Site]
    down: torch.Tensor | None = None
    ups: Sequence[torch.Tensor] = ()

    @property
    def ranks(self) -> list[int]:
        """Of the sites that have an adapter."""
        return [up.shape[1] for up in self.ups]


def multiply(x: torch.Tensor, sites: Sequence[Site]) -> tuple[list[torch.Tensor], torch.Tensor | None, Rounded]:
    """y [tokens, out] of every plain site for one x [tokens, in], and scale x A' [tokens, sum of ranks].

    All adapters share one product: each alone is too thin.
    """
    outputs = [site.product(x) for site in sites]
    rounded = Rounded([site for site in sites if site.down is not None])
    if not rounded.adapted:
        return outputs, None, rounded
    rounded.down = torch.cat([site.down for site in rounded.adapted]).to(x.dtype)  # type: ignore[misc]
    rounded.ups = [site.up.to(x.dtype) for site in rounded.adapted]  # type: ignore[union-attr]
    narrow = _scale(x @ rounded.down.T, rounded)
    thin = iter(zip(narrow.split(rounded.ranks, dim=1), rounded.ups, strict=True))
    for site, y in zip(sites, outputs, strict=True):
        if site.down is not None:
            part, up = next(thin)
            y.addmm_(part, up.T)
    return outputs, narrow, rounded


def multiply_backward(
    grads: Sequence[torch.Tensor],
    x: torch.Tensor,
    narrow: torch.Tensor | None,
    rounded: Rounded,
    *,
    sites: Sequence[Site],
    wants_input: bool = True,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """(dx, [dA, dB of each site]) for dy of every site."""
    grad_input: torch.Tensor | None = None
    if wants_input:
        for grad, site in zip(grads, sites, strict=True):
            grad_input = site.input_gradient(grad, grad_input)
    factors: list[torch.Tensor | None] = [None] * (2 * len(sites))
    if narrow is None or rounded.down is None:
        return grad_input, factors
    places = [place for place, site in enumerate(sites) if site.down is not None]
    thin = torch.cat([grads[place] @ up for place, up in zip(places, rounded.ups, strict=True)], dim=1)
    grad_narrow = _scale(thin, rounded)
    if grad_input is not None:
        grad_input.addmm_(grad_narrow, rounded.down)
    grad_downs = (grad_narrow.T @ x).split(rounded.ranks)
    for place, grad_down, part in zip(places, grad_downs, narrow.split(rounded.ranks, dim=1), strict=True):
        factors[2 * place] = as_master(grad_down, sites[place].down)
        factors[2 * place + 1] = as_master(grads[place].T @ part, sites[place].up)
    return grad_input, factors


def as_master(grad: torch.Tensor | None, master: torch.Tensor | None) -> torch.Tensor | None:
    """The gradient in its master's dtype."""
    return None if grad is None or master is None else grad.to(master.dtype)


def all_factors(sites: Sequence[Site]) -> list[nn.Parameter | None]:
    """The adapters of plain sites, named so that autograd sees them."""
    return [factor for site in sites for factor in site.factors]


def _scale(narrow: torch.Tensor, rounded: Rounded) -> torch.Tensor:
    """Each site's columns times its scale, in place."""
    for part, site in zip(narrow.split(rounded.ranks, dim=1), rounded.adapted, strict=True):
        part.mul_(site.scale)
    return narrow
