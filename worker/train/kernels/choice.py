"""Which operations between the products run by our Triton kernels here: those that pass a trial on this device.

Each is tried at the model's own sizes, forward and backward, against the plain version in the run's dtype before it is
trusted; what is missing, does not compile or gives other numbers leaves the plain version in place.
"""

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from tunesmith.tuning.models.shape import ModelShape
from tunesmith.worker.train.kernels import elementwise
from tunesmith.worker.train.kernels.elementwise import OPERATIONS, Activation
from tunesmith.worker.train.recorder import Recorder

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOLERANCE = 0.03  # of the largest value: a few roundings of bf16
TRIAL_TOKENS = 37
ACTIVATIONS: tuple[Activation, ...] = ("silu", "gelu_tanh", "gelu")


def choose_kernels(shape: ModelShape, *, device: torch.device, precision: str, recorder: Recorder) -> None:
    """Put every kernel to use that works here; what does not is an event with its reason. On a CPU nothing happens."""
    for operation in OPERATIONS:
        elementwise.use(operation, None)
    if device.type != "cuda":
        return
    rejected = put_to_use(shape, device=device, dtype=DTYPES[precision])
    if rejected:
        reasons = "; ".join(f"{operation} {reason}" for operation, reason in rejected.items())
        recorder.event(f"Plain PyTorch in place of Triton kernels: {reasons}.", level="warn", rejected=rejected)


def put_to_use(shape: ModelShape, *, device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Use what passes its trial; the reasons of the others."""
    if importlib.util.find_spec("triton") is None:
        return dict.fromkeys(OPERATIONS, "needs the package triton, which is not installed")
    rejected: dict[str, str] = {}
    for operation in OPERATIONS:
        problem = problem_of(operation, shape, device=device, dtype=dtype)
        if problem is None:
            elementwise.use(operation, _triton())
        else:
            rejected[operation] = problem
    return rejected


def problem_of(operation: str, shape: ModelShape, *, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels of this operation are not to be trusted here, to be read after its name."""
    try:
        difference = largest_difference(operation, _triton(), shape, device=device, dtype=dtype)
    except Exception as error:  # whatever a compiler raises, there is plain PyTorch
        if isinstance(error, torch.OutOfMemoryError):
            raise
        lines = str(error).strip().splitlines() or [""]
        return f"failed its trial here ({type(error).__name__}: {lines[0][:200]})"
    return None if difference <= TOLERANCE else f"gave other numbers than PyTorch's in its trial (by {difference:.0%})"


def largest_difference(
    operation: str, module: ModuleType, shape: ModelShape, *, device: torch.device, dtype: torch.dtype
) -> float:
    """Over all outputs of an operation, relative to the largest value of each; infinity for NaN."""
    wanted, found = (_TRIALS[operation](functions, shape, _Draw(device, dtype)) for functions in (elementwise, module))
    differences = [
        (one.float() - other.float()).abs().max() / other.float().abs().max().clamp(min=1e-6)
        for one, other in zip(found, wanted, strict=True)
    ]
    return float(torch.stack(differences).max().nan_to_num(nan=float("inf")))


class _Draw:
    """The same random tensors for both sides, with a generator of their own."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._generator, self._device, self._dtype = torch.Generator().manual_seed(0), device, dtype

    def __call__(self, *size: int) -> torch.Tensor:
        return torch.randn(*size, generator=self._generator).to(self._device, self._dtype)

    def labels(self, count: int, *, below: int) -> torch.Tensor:
        return torch.randint(below, (count,), generator=self._generator).to(self._device)


def _try_norm(functions: Any, shape: ModelShape, draw: _Draw) -> list[torch.Tensor]:
    """Both kinds of factor, alone and after an addition, at the hidden size and at a head's."""
    found: list[torch.Tensor] = []
    for offset in (False, True):
        for size in ((TRIAL_TOKENS, shape.hidden_size), (TRIAL_TOKENS, 3, shape.query_size // shape.heads)):
            x, residual, grad, weight = draw(*size), draw(*size), draw(*size), draw(size[-1])
            added, output, inverse = functions.add_rms_norm(x, residual, weight, 1e-5, offset=offset)
            plain, _ = functions.rms_norm(x, weight, 1e-5, offset=offset)
            found += [added, output, inverse, plain]
            for before, wants_weight in ((None, False), (residual, True)):
                grads = functions.rms_norm_backward(
                    grad, added, weight, inverse, offset=offset, residual=before, wants_weight=wants_weight
                )
                found += [tensor for tensor in grads if tensor is not None]
    return found


def _try_gate(functions: Any, shape: ModelShape, draw: _Draw) -> list[torch.Tensor]:
    """Halves that stand alone and halves of one tensor."""
    found: list[torch.Tensor] = []
    for activation in ACTIVATIONS:
        both, grad = draw(TRIAL_TOKENS, 2 * shape.intermediate_size), draw(TRIAL_TOKENS, shape.intermediate_size)
        for first, second in (both.chunk(2, dim=1), (half.contiguous() for half in both.chunk(2, dim=1))):
            found.append(functions.gate(first, second, activation))
            found += functions.gate_backward(grad, first, second, activation, uses_up=False)
            found += functions.gate_backward(grad.clone(), first, second, activation, uses_up=True)
    return found


def _try_rotate(functions: Any, shape: ModelShape, draw: _Draw) -> list[torch.Tensor]:
    size = shape.query_size // shape.heads
    x, angles = draw(TRIAL_TOKENS, shape.heads, size), draw(TRIAL_TOKENS, size // 2).repeat(1, 2)
    parts = [(angles, x), (angles[:, : 2 * (size // 4)], x)]  # all of a head, and its first half
    return [
        functions.rotate(states, table.cos(), table.sin(), direction=direction)
        for table, states in parts
        for direction in (1.0, -1.0)
    ]


def _try_cross_entropy(functions: Any, shape: ModelShape, draw: _Draw) -> list[torch.Tensor]:
    """Mean loss, hits and gradient, with and without a cap."""
    found: list[torch.Tensor] = []
    for softcap in (None, 5.0):
        logits, labels = 4 * draw(TRIAL_TOKENS, shape.vocab_size), draw.labels(TRIAL_TOKENS, below=shape.vocab_size)
        logits[torch.arange(5), labels[:5]] += 20.0  # certain hits: elsewhere rounding may make two scores equal
        loss, hits = functions.cross_entropy(logits, labels, softcap=softcap, wants_gradient=True)
        found += [loss / TRIAL_TOKENS, (hits >= 5).to(logits), logits]
    return found


_TRIALS: dict[str, Callable[[Any, ModelShape, _Draw], list[torch.Tensor]]] = {
    "rms_norm": _try_norm,
    "gate": _try_gate,
    "rotate": _try_rotate,
    "cross_entropy": _try_cross_entropy,
}


def _triton() -> ModuleType:
    return importlib.import_module("tunesmith.worker.train.kernels.triton_elementwise")
