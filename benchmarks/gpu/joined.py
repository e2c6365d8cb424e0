"""Thin LoRA products joined to their base product: apart, A beside W, and B beside W, forward and backward.

Apart is what the trainer does. A beside W gives x W' and x A' in one product, whose parts then stand apart in memory. B
beside W takes [x, x A'] for its input, so that the adapter's share needs no pass of its own over the output, and gives
the gradients of x and of x A' in one product. `python -m benchmarks.gpu kernels --device cpu` compares them on a CPU.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.gpu.setting import Setting, best_seconds

RANK = 16
BLOCKS = {"q, k and v of an 8B": (4096, (4096, 1024, 1024)), "gate and up of an 8B": (4096, (14336, 14336))}
SMALL = {"q, k and v of a 135M": (576, (576, 192, 192)), "gate and up of a 135M": (576, (1536, 1536))}


def run(setting: Setting) -> None:
    """Milliseconds of each way for each block."""
    tokens = 64 if setting.tiny else 8192 if setting.device == "cuda" else 1024
    for case, sizes in (BLOCKS if setting.device == "cuda" else SMALL).items():
        setting.tried(lambda sizes=sizes: _times(setting, tokens, *sizes), needs_seconds=15, kind="joined", case=case)  # type: ignore[misc]


def _times(setting: Setting, tokens: int, inward: int, outward: tuple[int, ...]) -> dict[str, Any]:
    import torch

    generator = torch.Generator(setting.device).manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=setting.device).to(torch.bfloat16)

    x, weights = random(tokens, inward), [random(size, inward) for size in outward]
    ups, grads = [random(size, RANK) for size in outward], [random(tokens, size) for size in outward]
    downs = random(RANK * len(outward), inward)
    beside_a, beside_b = torch.cat([*weights, downs]), _beside(weights, ups)
    ways: dict[str, Callable[[], Any]] = {
        "apart_forward": lambda: _apart(x, weights, downs, ups),
        "a_beside_forward": lambda: _a_beside(x, beside_a, ups),
        "b_beside_forward": lambda: _b_beside(x, beside_b, downs),
        "apart_backward": lambda: _apart_backward(grads, weights, downs, ups),
        "b_beside_backward": lambda: _b_beside_backward(grads, beside_b, downs),
    }
    wanted = _apart(x, weights, downs, ups)
    for found in (_a_beside(x, beside_a, ups), _b_beside(x, beside_b, downs)):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * float(other.abs().max()))
    times = {name: best_seconds(way, setting.device, repeats=10) for name, way in ways.items()}
    return {f"{name}_ms": seconds * 1e3 for name, seconds in times.items()}


def _beside(weights: list[Any], ups: list[Any]) -> list[Any]:
    """[W, B] of each, B in the columns of its own adapter."""
    import torch

    wide = []
    for place, (weight, up) in enumerate(zip(weights, ups, strict=True)):
        joined = torch.zeros(len(weight), weight.shape[1] + RANK * len(ups), dtype=weight.dtype, device=weight.device)
        joined[:, : weight.shape[1]] = weight
        joined[:, weight.shape[1] + RANK * place :][:, :RANK] = up
        wide.append(joined)
    return wide


def _apart(x: Any, weights: list[Any], downs: Any, ups: list[Any]) -> list[Any]:
    outputs = [x @ weight.T for weight in weights]
    for output, narrow, up in zip(outputs, (x @ downs.T).split(RANK, dim=1), ups, strict=True):
        output.addmm_(narrow, up.T)
    return outputs


def _a_beside(x: Any, joined: Any, ups: list[Any]) -> list[Any]:
    *outputs, narrow = (x @ joined.T).split([*(len(up) for up in ups), RANK * len(ups)], dim=1)
    for output, part, up in zip(outputs, narrow.split(RANK, dim=1), ups, strict=True):
        output.addmm_(part, up.T)
    return [output.contiguous() for output in outputs]


def _b_beside(x: Any, joined: list[Any], downs: Any) -> list[Any]:
    import torch

    wide = torch.cat([x, x @ downs.T], dim=1)
    return [wide @ weight.T for weight in joined]


def _apart_backward(grads: list[Any], weights: list[Any], downs: Any, ups: list[Any]) -> Any:
    import torch

    found = _summed(grads, weights)
    return found.addmm_(torch.cat([grad @ up for grad, up in zip(grads, ups, strict=True)], dim=1), downs)


def _b_beside_backward(grads: list[Any], joined: list[Any], downs: Any) -> Any:
    found, inward = _summed(grads, joined), downs.shape[1]
    return found[:, :inward].addmm(found[:, inward:], downs)


def _summed(grads: list[Any], weights: list[Any]) -> Any:
    found = grads[0] @ weights[0]
    for grad, weight in zip(grads[1:], weights[1:], strict=True):
        found.addmm_(grad, weight)
    return found
