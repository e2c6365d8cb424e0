"""Norms, gates and rotations as passes of their own: each keeps its inputs and nothing else."""

from typing import Any

import torch
from torch import nn

from tunesmith.worker.train.kernels import elementwise
from tunesmith.worker.train.kernels.elementwise import Activation
from tunesmith.worker.train.kernels.rebuild import can_be_made

Tensors = tuple[torch.Tensor | None, ...]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool = False) -> torch.Tensor:
    """Root-mean-square normalisation of x [..., hidden], times weight or, with `offset`, 1 + weight."""
    output: torch.Tensor = _RmsNorm.apply(x, weight, epsilon, offset)
    _can_be_normalised_again(output, x, weight, epsilon, offset=offset)
    return output


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(x + residual, its norm): two passes over memory fewer than one after the other."""
    added, output = _AddRmsNorm.apply(x, residual, weight, epsilon, offset)
    _can_be_normalised_again(output, added, weight, epsilon, offset=offset)
    return added, output


def layer_norm(x: torch.Tensor, module: nn.LayerNorm) -> torch.Tensor:
    """PyTorch's own (arXiv 1607.06450), which can be made again."""

    def normalised(states: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(states, module.normalized_shape, module.weight, module.bias, module.eps)

    output, source = normalised(x), x.detach()
    can_be_made(output, lambda: normalised(source))
    return output


def gate(gated: torch.Tensor, other_half: torch.Tensor, activation: Activation) -> torch.Tensor:
    """activation(gated) * other_half."""
    output: torch.Tensor = _Gate.apply(gated, other_half, activation)
    first, second = gated.detach(), other_half.detach()
    can_be_made(output, lambda: elementwise.gate(first, second, activation))
    return output


def activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """activation(x), keeping x whatever the library's own version keeps."""
    output: torch.Tensor = _Activate.apply(x, activation)
    source = x.detach()
    can_be_made(output, lambda: elementwise.activate(source, activation))
    return output


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, head size] turned by its tokens' angles, cosine and sine [tokens, rotated size]."""
    output: torch.Tensor = _Rotate.apply(x, cosine, sine)
    return output


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, offset: bool) -> torch.Tensor:
        output, inverse = elementwise.rms_norm(x, weight, epsilon, offset=offset)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        return output

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        grad_x, grad_weight = _norm_backward(ctx, grad, residual=None, wants_weight=ctx.needs_input_grad[1])
        return grad_x, grad_weight, None, None


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, offset: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        added, output, inverse = elementwise.add_rms_norm(x, residual, weight, epsilon, offset=offset)
        ctx.save_for_backward(added, weight, inverse)
        ctx.offset = offset
        return added, output

    @staticmethod
    def backward(ctx: Any, grad_added: torch.Tensor, grad: torch.Tensor) -> Tensors:
        grad_x, grad_weight = _norm_backward(ctx, grad, residual=grad_added, wants_weight=ctx.needs_input_grad[2])
        return grad_x, grad_x, grad_weight, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gated: torch.Tensor, other_half: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(gated, other_half)
        ctx.activation = activation
        return elementwise.gate(gated, other_half, activation)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        gated, other_half = ctx.saved_tensors
        return *elementwise.gate_backward(grad, gated, other_half, ctx.activation, uses_up=False), None


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, activation: Activation) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.activation = activation
        return elementwise.activate(x, activation)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        (x,) = ctx.saved_tensors
        return elementwise.activate_backward(grad, x, ctx.activation), None


class _Rotate(torch.autograd.Function):
    """Its inverse is the opposite turn."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cosine, sine)
        return elementwise.rotate(x, cosine, sine, direction=1.0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Tensors:
        return elementwise.rotate(grad, *ctx.saved_tensors, direction=-1.0), None, None


def _can_be_normalised_again(
    output: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool
) -> None:
    source, factor = x.detach(), weight.detach()
    can_be_made(output, lambda: elementwise.rms_norm(source, factor, epsilon, offset=offset)[0])


def _norm_backward(
    ctx: Any, grad: torch.Tensor, *, residual: torch.Tensor | None, wants_weight: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    x, weight, inverse = ctx.saved_tensors
    return elementwise.rms_norm_backward(
        grad, x, weight, inverse, offset=ctx.offset, residual=residual, wants_weight=wants_weight
    )
