"""What lies between the matrix products: norms, gates, rotations, cross-entropy of logits, in plain PyTorch.

`worker.train.kernels.triton_elementwise` has the same functions as one kernel each; `worker.train.kernels.choice`
decides at the start of a run, by trial, which of them stand in for these on its device.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import torch
from torch.nn import functional

Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]
OPERATIONS = ("rms_norm", "gate", "rotate", "cross_entropy")
_in_place_of_ours: dict[str, ModuleType] = {}  # operation -> the module whose functions CUDA tensors go through


def use(operation: str, module: ModuleType | None) -> None:
    """Send this operation's CUDA tensors through `module` from now on, or (None) through PyTorch."""
    if module is None:
        _in_place_of_ours.pop(operation, None)
    else:
        _in_place_of_ours[operation] = module


def in_use() -> dict[str, ModuleType]:
    """Operations that do not run by plain PyTorch on a GPU, and the module that has them."""
    return dict(_in_place_of_ours)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight * x / rms(x), 1 / rms(x) fp32 [..., 1]), normalised in fp32 (arXiv 1910.07467).

    With `offset` the factor is 1 + weight, multiplied in fp32 (Gemma); else the normalised x is rounded first (Llama).
    """
    if other := _other("rms_norm", x):
        return other.rms_norm(x, weight, epsilon, offset=offset)
    wide = x.float()
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    if offset:
        return (wide * inverse).mul_(1.0 + weight.float()).to(x.dtype), inverse
    return weight * (wide * inverse).to(x.dtype), inverse


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float, *, offset: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x + residual, its norm as `rms_norm` gives it, 1 / rms)."""
    if other := _other("rms_norm", x):
        return other.add_rms_norm(x, residual, weight, epsilon, offset=offset)
    added = x + residual
    return added, *rms_norm(added, weight, epsilon, offset=offset)


def rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    inverse: torch.Tensor,
    *,
    offset: bool,
    residual: torch.Tensor | None,
    wants_weight: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(dx, dweight or None). dx = (g - z mean(g z)) / rms + residual, z the normalised x and g = grad * factor."""
    if other := _other("rms_norm", x):
        return other.rms_norm_backward(
            grad, x, weight, inverse, offset=offset, residual=residual, wants_weight=wants_weight
        )
    normal = x * inverse  # not in place: an fp32 x is its own fp32 copy
    grad_weight = (grad * normal).flatten(0, -2).sum(dim=0).to(weight.dtype) if wants_weight else None
    wide = grad.float() * (1.0 + weight.float()) if offset else (grad * weight).float()
    shared = (wide * normal).mean(dim=-1, keepdim=True)
    grad_x = wide.sub_(normal.mul_(shared)).mul_(inverse)
    if residual is not None:
        grad_x.add_(residual)
    return grad_x.to(grad.dtype), grad_weight


def gate(gated: torch.Tensor, other_half: torch.Tensor, activation: Activation) -> torch.Tensor:
    """activation(gated) * other_half (arXiv 2002.05202)."""
    if other := _other("gate", gated):
        return other.gate(gated, other_half, activation)
    return activate(gated, activation).mul_(other_half)


def gate_backward(
    grad: torch.Tensor, gated: torch.Tensor, other_half: torch.Tensor, activation: Activation, *, uses_up: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of both halves; with `uses_up` the memory of `grad` may be written over."""
    if other := _other("gate", gated):
        return other.gate_backward(grad, gated, other_half, activation, uses_up=uses_up)
    grad_other = activate(gated, activation).mul_(grad)
    grad_active = grad.mul_(other_half) if uses_up else grad * other_half
    return activate_backward(grad_active, gated, activation), grad_other


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, *, direction: float) -> torch.Tensor:
    """Rotary positions in the half-split layout (arXiv 2104.09864), back with direction -1.

    x: [tokens, heads, head size]; cosine, sine: [tokens, rotated size], of the first dimensions of each head.
    """
    if other := _other("rotate", x):
        return other.rotate(x, cosine, sine, direction=direction)
    cosine, sine = cosine[:, None], sine[:, None]
    size = cosine.shape[-1]
    half = size // 2
    turned = x * cosine if size == x.shape[-1] else torch.cat([x[..., :size] * cosine, x[..., size:]], dim=-1)
    turned[..., :half].addcmul_(x[..., half:size], sine[..., :half], value=-direction)
    turned[..., half:size].addcmul_(x[..., :half], sine[..., half:], value=direction)
    return turned


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, softcap: float | None, wants_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(summed negative log-likelihood fp32, int64 count of labels that are the argmax); `logits` become their gradient.

    logits: [tokens, vocabulary]; labels: int64 [tokens].
    """
    if other := _other("cross_entropy", logits):
        return other.cross_entropy(logits, labels, softcap=softcap, wants_gradient=wants_gradient)
    slope = _cap(logits, softcap)
    log_probabilities = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    loss = -log_probabilities.gather(1, labels[:, None]).sum()
    # argmax alone takes four times as long on a CPU in bf16.
    correct = (logits.max(dim=-1).indices == labels).sum()
    if wants_gradient:
        _gradient(log_probabilities, labels, slope, out=logits)
    return loss, correct


def activate(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """A new tensor."""
    return _ACTIVATIONS[activation](x)


def activate_backward(grad: torch.Tensor, x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """grad * activation'(x)."""
    return _SLOPES[activation](grad, x)


_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
}
_SLOPES: dict[Activation, Callable[..., torch.Tensor]] = {
    "silu": torch.ops.aten.silu_backward,
    "gelu_tanh": lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="tanh"),
    "gelu": lambda grad, x: torch.ops.aten.gelu_backward(grad, x, approximate="none"),
    "relu": lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
}


def _other(operation: str, x: torch.Tensor) -> Any:
    return _in_place_of_ours.get(operation) if x.is_cuda else None


def _cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor | None:
    """Cap `logits` in place; returns the derivative of the cap, or None where there is none."""
    if not softcap:
        return None
    logits.div_(softcap).tanh_()
    slope = 1.0 - logits.float().square()
    logits.mul_(softcap)
    return slope


def _gradient(
    log_probabilities: torch.Tensor, labels: torch.Tensor, slope: torch.Tensor | None, *, out: torch.Tensor
) -> None:
    """softmax(logits) - onehot(labels), written over `out`; `log_probabilities` is used up."""
    probabilities = log_probabilities.exp_()
    probabilities.scatter_add_(1, labels[:, None], probabilities.new_full((len(labels), 1), -1.0))
    if slope is not None:
        probabilities.mul_(slope)
    out.copy_(probabilities)
