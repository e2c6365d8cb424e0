"""Our own forward and backward passes for the blocks of Llama-shaped models, put in place of the modules' own.

What they save over autograd on PEFT's modules: the input of a projection is kept once however many adapters read it;
adapters multiply in the compute dtype while their masters stay fp32; gradients are added into their place by the matrix
product itself; the inside of the MLP keeps two tensors of its width instead of four; a 4-bit weight is dequantised when
it is used and not kept. The idea is that of fused LoRA kernels; the maths is written out here in plain PyTorch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Tensors = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True)
class Site:
    """One frozen linear and, perhaps, its adapter: y = x W' + b + scale (x A') B'. A [rank, in] and B [out, rank]."""

    base: nn.Module
    down: nn.Parameter | None
    up: nn.Parameter | None
    scale: float

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """W [out, in]; a 4-bit one is dequantised at each call."""
        weight: torch.Tensor = self.base.weight  # type: ignore[assignment]
        state = getattr(weight, "quant_state", None)
        if state is None:
            return weight
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state).to(dtype)


@dataclass
class Multiplied:
    """What the products of one input leave behind for their backward pass, adapters side by side in the compute dtype.

    down: [sum of ranks, in]; ups: [out, rank] each; narrow: scale x A', [tokens, sum of ranks]. None without adapters.
    """

    sites: Sequence[Site]
    adapted: list[Site]
    down: torch.Tensor | None = None
    ups: Sequence[torch.Tensor] = ()
    narrow: torch.Tensor | None = None

    @property
    def ranks(self) -> list[int]:
        """Of the sites that have an adapter."""
        return [up.shape[1] for up in self.ups]


def multiply(x: torch.Tensor, sites: Sequence[Site]) -> tuple[list[torch.Tensor], Multiplied]:
    """y [tokens, out] of every site for one x [tokens, in]; all adapters share one product: each alone is too thin."""
    outputs = [torch.nn.functional.linear(x, site.weight(x.dtype), site.base.bias) for site in sites]  # type: ignore[arg-type]
    done = Multiplied(sites, [site for site in sites if site.down is not None])
    if done.adapted:
        done.down = torch.cat([site.down for site in done.adapted]).to(x.dtype)  # type: ignore[misc]
        done.ups = [site.up.to(x.dtype) for site in done.adapted]  # type: ignore[union-attr]
        done.narrow = _scale(x @ done.down.T, done)
        thin = iter(zip(done.narrow.split(done.ranks, dim=1), done.ups, strict=True))
        for site, y in zip(sites, outputs, strict=True):
            if site.down is not None:
                narrow, up = next(thin)
                y.addmm_(narrow, up.T)
    return outputs, done


def multiply_backward(
    grads: Sequence[torch.Tensor], x: torch.Tensor, done: Multiplied, *, wants_input: bool = True
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """(dx, [dA, dB of each site]) for dy of every site."""
    grad_input: torch.Tensor | None = None
    if wants_input:
        for grad, site in zip(grads, done.sites, strict=True):
            weight = site.weight(grad.dtype)
            grad_input = grad @ weight if grad_input is None else grad_input.addmm_(grad, weight)
    factors: list[torch.Tensor | None] = [None] * (2 * len(done.sites))
    if done.down is None or done.narrow is None:
        return grad_input, factors
    places = [place for place, site in enumerate(done.sites) if site.down is not None]
    thin = torch.cat([grads[place] @ up for place, up in zip(places, done.ups, strict=True)], dim=1)
    grad_narrow = _scale(thin, done)
    if grad_input is not None:
        grad_input.addmm_(grad_narrow, done.down)
    grad_downs = (grad_narrow.T @ x).split(done.ranks)
    for place, grad_down, narrow in zip(places, grad_downs, done.narrow.split(done.ranks, dim=1), strict=True):
        site = done.sites[place]
        factors[2 * place] = _as_master(grad_down, site.down)
        factors[2 * place + 1] = _as_master(grads[place].T @ narrow, site.up)
    return grad_input, factors


class _Projections(torch.autograd.Function):
    """Several sites that read one input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sites: Sequence[Site], *_: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The trailing arguments are the sites' adapters, named so that autograd sees them."""
        outputs, ctx.done = multiply(x, sites)
        ctx.save_for_backward(x)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Tensors:
        """One sum of input gradients, each adapter's two gradients."""
        (x,) = ctx.saved_tensors
        grad_input, factors = multiply_backward(grads, x, ctx.done, wants_input=ctx.needs_input_grad[0])
        return grad_input, None, *factors


class _GatedMlp(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)), keeping x, gate(x) and up(x)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sites: Sequence[Site], *_: torch.Tensor | None) -> torch.Tensor:
        """`sites` are gate, up and down."""
        (gate, up), wide_done = multiply(x, sites[:2])
        (y,), down_done = multiply(torch.nn.functional.silu(gate).mul_(up), sites[2:])
        ctx.save_for_backward(x, gate, up)
        ctx.done = wide_done, down_done
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        """The product of gate and up is rebuilt for the gradient of the down adapter."""
        x, gate, up = ctx.saved_tensors
        wide_done, down_done = ctx.done
        active = torch.nn.functional.silu(gate)
        grad_product, down_factors = multiply_backward([grad], active * up, down_done)
        assert grad_product is not None  # noqa: S101 - for the type checker
        grad_up = active.mul_(grad_product)
        grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)
        grad_input, wide_factors = multiply_backward(
            [grad_gate, grad_up], x, wide_done, wants_input=ctx.needs_input_grad[0]
        )
        return grad_input, None, *wide_factors, *down_factors


class _RmsNorm(torch.autograd.Function):
    """weight * x / rms(x), with the normalisation in fp32 and a frozen weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """x [..., hidden]."""
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        """(g - z mean(g z)) / rms, where z is the normalised input and g = grad * weight."""
        x, weight, inverse = ctx.saved_tensors
        wide = (grad * weight).float()
        normal = x.float().mul_(inverse)
        shared = (wide * normal).mean(dim=-1, keepdim=True)
        return wide.sub_(normal.mul_(shared)).mul_(inverse).to(grad.dtype), None, None


class _Rotate(torch.autograd.Function):
    """Rotary position embedding in the half-split layout; its inverse is the opposite turn."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        """x [tokens, heads, head size]; cosine, sine [tokens, 1, head size]."""
        ctx.save_for_backward(cosine, sine)
        return _turn(x, cosine, sine, direction=1.0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        """Turn the gradient back."""
        return _turn(grad, *ctx.saved_tensors, direction=-1.0), None, None


def project(x: torch.Tensor, sites: Sequence[Site]) -> tuple[torch.Tensor, ...]:
    """Every site's product with x [tokens, in]."""
    outputs: tuple[torch.Tensor, ...] = _Projections.apply(x, sites, *_factors(sites))
    return outputs


def gated_mlp(x: torch.Tensor, sites: Sequence[Site]) -> torch.Tensor:
    """down(silu(gate(x)) * up(x)) for x [tokens, hidden]."""
    output: torch.Tensor = _GatedMlp.apply(x, sites, *_factors(sites))
    return output


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root-mean-square normalisation; no gradient for `weight`."""
    output: torch.Tensor = _RmsNorm.apply(x, weight, epsilon)
    return output


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, head size] turned by its tokens' angles, cosine and sine [tokens, head size]."""
    output: torch.Tensor = _Rotate.apply(x, cosine[:, None], sine[:, None])
    return output


def _turn(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, *, direction: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    turned = x * cosine
    turned[..., :half].addcmul_(x[..., half:], sine[..., :half], value=-direction)
    turned[..., half:].addcmul_(x[..., :half], sine[..., half:], value=direction)
    return turned


def _factors(sites: Sequence[Site]) -> list[nn.Parameter | None]:
    return [factor for site in sites for factor in (site.down, site.up)]


def _scale(narrow: torch.Tensor, done: Multiplied) -> torch.Tensor:
    """Each site's columns times its scale, in place."""
    for part, site in zip(narrow.split(done.ranks, dim=1), done.adapted, strict=True):
        part.mul_(site.scale)
    return narrow


def _as_master(grad: torch.Tensor | None, master: torch.Tensor | None) -> torch.Tensor | None:
    return None if grad is None or master is None else grad.to(master.dtype)
