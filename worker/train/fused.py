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
    """What one site's product leaves behind for its backward pass, adapters already in the compute dtype."""

    site: Site
    down: torch.Tensor | None
    up: torch.Tensor | None
    narrow: torch.Tensor | None  # x A', [tokens, rank]


def multiply(x: torch.Tensor, site: Site) -> tuple[torch.Tensor, Multiplied]:
    """y [tokens, out] for x [tokens, in]."""
    bias = site.base.bias
    y = torch.nn.functional.linear(x, site.weight(x.dtype), bias)  # type: ignore[arg-type]
    if site.down is None or site.up is None:
        return y, Multiplied(site, None, None, None)
    down, up = site.down.to(x.dtype), site.up.to(x.dtype)
    narrow = x @ down.T
    y.addmm_(narrow, up.T, alpha=site.scale)
    return y, Multiplied(site, down, up, narrow)


def multiply_backward(
    grad: torch.Tensor, x: torch.Tensor, done: Multiplied, *, into: torch.Tensor | None, wants_input: bool = True
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """(dx, dA, dB) for dy = `grad`; dx is added to `into` where that is given."""
    if wants_input:
        weight = done.site.weight(grad.dtype)
        into = grad @ weight if into is None else into.addmm_(grad, weight)
    if done.down is None or done.up is None or done.narrow is None:
        return into, None, None
    grad_narrow = (grad @ done.up).mul_(done.site.scale)
    if into is not None:
        into.addmm_(grad_narrow, done.down)
    grad_down = grad_narrow.T @ x
    grad_up = (grad.T @ done.narrow).mul_(done.site.scale)
    return into, grad_down, grad_up


class _Projections(torch.autograd.Function):
    """Several sites that read one input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sites: Sequence[Site], *_: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The trailing arguments are the sites' adapters, named so that autograd sees them."""
        outputs, ctx.done = zip(*(multiply(x, site) for site in sites), strict=True)
        ctx.save_for_backward(x)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Tensors:
        """One sum of input gradients, each adapter's two gradients."""
        (x,) = ctx.saved_tensors
        grad_input: torch.Tensor | None = None
        factors: list[torch.Tensor | None] = []
        for grad, done in zip(grads, ctx.done, strict=True):
            grad_input, grad_down, grad_up = multiply_backward(
                grad, x, done, into=grad_input, wants_input=ctx.needs_input_grad[0]
            )
            factors += [_as_master(grad_down, done.site.down), _as_master(grad_up, done.site.up)]
        return grad_input, None, *factors


class _GatedMlp(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)), keeping x, gate(x) and up(x)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sites: Sequence[Site], *_: torch.Tensor | None) -> torch.Tensor:
        """`sites` are gate, up and down."""
        gate, gate_done = multiply(x, sites[0])
        up, up_done = multiply(x, sites[1])
        y, down_done = multiply(torch.nn.functional.silu(gate).mul_(up), sites[2])
        ctx.save_for_backward(x, gate, up)
        ctx.done = gate_done, up_done, down_done
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        """The product of gate and up is rebuilt for the gradient of the down adapter."""
        x, gate, up = ctx.saved_tensors
        gate_done, up_done, down_done = ctx.done
        active = torch.nn.functional.silu(gate)
        grad_product, *down_factors = multiply_backward(grad, active * up, down_done, into=None)
        assert grad_product is not None  # noqa: S101 - for the type checker
        grad_up = active.mul_(grad_product)
        grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)
        grad_input, *up_factors = multiply_backward(grad_up, x, up_done, into=None, wants_input=ctx.needs_input_grad[0])
        grad_input, *gate_factors = multiply_backward(
            grad_gate, x, gate_done, into=grad_input, wants_input=ctx.needs_input_grad[0]
        )
        factors = [*gate_factors, *up_factors, *down_factors]
        masters = [master for done in ctx.done for master in (done.site.down, done.site.up)]
        return grad_input, None, *map(_as_master, factors, masters)


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


def _as_master(grad: torch.Tensor | None, master: torch.Tensor | None) -> torch.Tensor | None:
    return None if grad is None or master is None else grad.to(master.dtype)
