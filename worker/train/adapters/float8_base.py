"""Holds the adapted matrices of a frozen base in 8-bit floating point, if this device multiplies them right."""

import torch
from torch import nn

from tunesmith.worker.train.adapters.fuse import site_of
from tunesmith.worker.train.kernels.float8 import Float8Weight, obstacle
from tunesmith.worker.train.recorder import Recorder

TOLERANCE = 0.02  # of the largest value, against the same 8-bit numbers multiplied in fp32


def hold_in_float8(model: nn.Module, *, device: torch.device, recorder: Recorder) -> int:
    """Replace the weights under adapters, after the fused passes took their places; returns how many were.

    The 16-bit weight is given back as soon as its 8-bit form exists. Where a trial fails the base stays as it is, and
    an event says so.
    """
    problem = problem_of(device)
    if problem is not None:
        recorder.event(f"The base stays in 16 bits: 8-bit products {problem}.", level="warn")
        return 0
    held = 0
    for module in model.modules():
        site = site_of(module) if hasattr(module, "lora_A") else None
        if site is None or hasattr(site.base.weight, "quant_state"):
            continue
        weight = site.weight(site.base.weight.dtype)
        outward, inward = weight.shape
        if obstacle(in_features=inward, out_features=outward) is None:
            site.base.float8 = Float8Weight.of(weight.detach())  # type: ignore[assignment]
            site.base.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
            held += 1
    recorder.event(f"{held} matrices of the base are held and multiplied in 8-bit floating point.", matrices=held)
    return held


def problem_of(device: torch.device) -> str | None:
    """Why products in 8 bits are not to be trusted on this device, to be read after their name."""
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(*size, generator=generator) for size in ((48, 64), (96, 64), (48, 96)))
    wanted = _products(x, weight, grad, device=torch.device("cpu"))
    try:
        found = _products(x, weight, grad, device=device)
    except Exception as error:  # whatever a kernel raises, there are 16 bits
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = str(error).strip().splitlines() or [""]
        return f"failed their trial here ({type(error).__name__}: {lines[0][:200]})"
    pairs = zip(found, wanted, strict=True)
    worst = max(float((one.cpu() - other).abs().max() / other.abs().max()) for one, other in pairs)
    return None if worst <= TOLERANCE else f"gave other numbers in their trial (by {worst:.0%})"


def _products(x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor, *, device: torch.device) -> list[torch.Tensor]:
    dtype = torch.bfloat16
    held = Float8Weight.of(weight.to(device, dtype))
    return [held.product(x.to(device, dtype), None).float(), held.input_gradient(grad.to(device, dtype)).float()]
