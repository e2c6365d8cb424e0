"""How fast this device multiplies matrices, measured: the ceiling against which a training run's speed is held."""

import time
from collections.abc import Callable

import torch

# Large enough to keep the device busy, over within a few milliseconds: a share of time that a busy machine does give.
_SIZES = {"cpu": (256, 1024, 1024), "cuda": (8192, 4096, 8192)}
_AT_LEAST = 3


def matmul_flops_per_second(
    dtype: torch.dtype,
    *,
    device: torch.device,
    seconds: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Floating-point operations a second of one matrix product, with the threads that this process has.

    The fastest of all products within `seconds`, and of at least three: whatever else runs on the machine only slows
    one down.
    """
    rows, inner, columns = _SIZES[device.type]
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(inner, columns, dtype=dtype, device=device)
    _seconds(left, right, clock)  # kernels are chosen, compiled and their memory mapped
    began, fastest, repeats = clock(), float("inf"), 0
    while repeats < _AT_LEAST or clock() - began < seconds:
        fastest = min(fastest, _seconds(left, right, clock))
        repeats += 1
    return 2.0 * rows * inner * columns / fastest


def _seconds(left: torch.Tensor, right: torch.Tensor, clock: Callable[[], float]) -> float:
    began = clock()
    torch.mm(left, right)
    if left.is_cuda:
        torch.cuda.synchronize(left.device)
    return clock() - began
