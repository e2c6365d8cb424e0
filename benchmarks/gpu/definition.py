"""What the operations between products are, by definition and in fp64: gradients by autograd, nothing of ours."""

from typing import Any

import torch
from torch.nn import functional

ACTIVATIONS: dict[str, Any] = {
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
}


class Draw:
    """Random tensors as `worker.train.kernels.choice` draws them, rounded to bf16 and then widened to fp64."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw

    def __call__(self, *size: int) -> torch.Tensor:
        return self._draw(*size).double()

    def labels(self, count: int, *, below: int) -> torch.Tensor:
        return self._draw.labels(count, below=below)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool) -> Any:
    inverse = (x.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()
    return x * inverse * (1 + weight if offset else weight), inverse


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool) -> Any:
    added = (x + residual).bfloat16().double()  # what is stored is rounded, and that is what is normalised
    return added, *rms_norm(added, weight, epsilon, offset=offset)


def rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,  # noqa: ARG001 - computed anew
    *,
    offset: bool,
    residual: torch.Tensor | None,
    wants_weight: bool,
) -> Any:
    leaves = [part.clone().requires_grad_() for part in (x, weight)]
    grad_x, grad_weight = torch.autograd.grad(rms_norm(*leaves, 1e-5, offset=offset)[0], leaves, grad)
    return grad_x if residual is None else grad_x + residual, grad_weight if wants_weight else None


def gate(gated: torch.Tensor, other_half: torch.Tensor, activation: str) -> torch.Tensor:
    return ACTIVATIONS[activation](gated) * other_half


def gate_backward(
    grad: torch.Tensor,
    gated: torch.Tensor,
    other_half: torch.Tensor,
    activation: str,
    *,
    uses_up: bool,  # noqa: ARG001 - never
) -> Any:
    leaves = [part.clone().requires_grad_() for part in (gated, other_half)]
    return torch.autograd.grad(gate(*leaves, activation), leaves, grad)


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, *, direction: float) -> torch.Tensor:
    size = cosine.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    first, last = turning.chunk(2, dim=-1)
    turned = turning * cosine[:, None] + direction * torch.cat([-last, first], dim=-1) * sine[:, None]
    return torch.cat([turned, rest], dim=-1)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, softcap: float | None, wants_gradient: bool) -> Any:
    leaf = logits.clone().requires_grad_()
    capped = softcap * torch.tanh(leaf / softcap) if softcap else leaf
    loss = functional.cross_entropy(capped, labels, reduction="sum")
    hits = (capped.argmax(dim=1) == labels).sum()
    if wants_gradient:
        logits.copy_(torch.autograd.grad(loss, leaf)[0])
    return loss.detach(), hits
