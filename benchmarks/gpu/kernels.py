"""(b) Every kernel and attention path against fp64: errors and speeds, beside plain PyTorch and liger-kernel."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from benchmarks.gpu import joined
from benchmarks.gpu.setting import Setting, best_seconds, free_memory, missing

CASES: dict[str, dict[str, Any]] = {
    "heads of 128, grouped": {"heads": 32, "key_value": 8, "size": 128},
    "heads of 64": {"heads": 32, "key_value": 32, "size": 64},
    "heads of 256, window, cap": {"heads": 8, "key_value": 4, "size": 256, "window": 1024, "softcap": 50.0},
    "sinks and window": {"heads": 16, "key_value": 4, "size": 64, "window": 128, "sinks": True},
}


def run(setting: Setting) -> None:
    """Attention, what lies between products, cross-entropy, 8-bit products, and thin products joined or apart."""
    for case, numbers in CASES.items():
        _attention(setting, case, numbers)
    _elementwise(setting)
    _float8(setting)
    joined.run(setting)


def _attention(setting: Setting, case: str, numbers: dict[str, Any]) -> None:
    import torch

    from tunesmith.tuning.search.attention_kernel import ladder, obstacle
    from tunesmith.worker.train.attention.choice import _installed
    from tunesmith.worker.train.attention.packed import segment_attention
    from tunesmith.worker.train.attention.segments import Scores, Segments

    device = torch.device(setting.device)
    capability = torch.cuda.get_device_capability() if setting.device == "cuda" else None
    small, large = ([9, 60], [300, 20]) if setting.tiny else ([5, 700, 1343], [4096, 4096])
    scale = numbers["size"] ** -0.5
    window = numbers.get("window") and (7 if setting.tiny else numbers["window"])
    for kernel in ladder(on_gpu=setting.device == "cuda"):
        shape = _shape(numbers)
        problem = obstacle(kernel, capability=capability, installed=_installed(), precision="bf16", shape=shape)
        if problem:
            setting.record(kind="attention", case=case, kernel=kernel, outcome=f"not here: it {problem}")
            continue

        def measured(kernel: Any = kernel) -> dict[str, Any]:
            sinks = torch.linspace(-1, 1, numbers["heads"], device=device) if numbers.get("sinks") else None
            scores = Scores(scale, window, numbers.get("softcap"), sinks)
            states, grad = _states(small, numbers, device=device, dtype=torch.bfloat16)
            found = _outcome(
                lambda *parts: segment_attention(
                    *parts, segments=Segments.of(small, device=device).through(kernel), scores=scores
                ),
                states,
                grad,
            )
            wanted = _outcome(
                lambda *parts: _reference(*parts, lengths=small, scores=_wide(scores)),
                [part.double() for part in states],
                grad.double(),
            )
            error = max(
                float((one.double() - other).abs().max() / other.abs().max())
                for one, other in zip(found, wanted, strict=True)
            )
            states, grad = _states(large, numbers, device=device, dtype=torch.bfloat16)
            segments = Segments.of(large, device=device).through(kernel)
            seconds = best_seconds(
                lambda: _outcome(
                    lambda *parts: segment_attention(*parts, segments=segments, scores=scores), states, grad
                ),
                setting.device,
            )
            flops = 7 * sum(n * n for n in large) * numbers["heads"] * numbers["size"]  # causal: 2 forward, 5 backward
            return {"error": error, "milliseconds": seconds * 1e3, "tflops": flops / seconds / 1e12}

        setting.tried(measured, needs_seconds=20, kind="attention", case=case, kernel=kernel)
        free_memory(setting.device)


def _elementwise(setting: Setting) -> None:
    """One layer's worth at the 8B sizes: error of plain PyTorch and of Triton against fp64, time of each."""
    import torch

    from benchmarks.gpu import definition
    from tunesmith.worker.train.kernels import elementwise
    from tunesmith.worker.train.kernels.choice import _TRIALS, _Draw, largest_difference

    device, shape = torch.device(setting.device), _elementwise_shape(setting)
    sides: dict[str, Callable[[], Any]] = {"plain": lambda: elementwise, "triton": _triton, "liger": _liger}
    packages = {"triton": ("triton",), "liger": ("triton", "liger_kernel")}
    for operation in elementwise.OPERATIONS:
        for side, load in sides.items():
            absent = missing(packages.get(side, ()))
            if absent or (side != "plain" and setting.device == "cpu"):
                why = f"needs {' and '.join(absent)}" if absent else "needs a GPU"
                setting.record(kind="elementwise", operation=operation, side=side, outcome=f"not here: it {why}")
                continue

            def measured(operation: str = operation, side: str = side, load: Any = load) -> dict[str, Any]:
                module = load()
                work = _work(operation, module, setting)
                seconds = best_seconds(work.call, setting.device, repeats=10)
                found = {"microseconds": seconds * 1e6, "gigabytes_per_second": work.bytes / seconds / 1e9}
                if side == "liger":
                    return found
                wide = _TRIALS[operation](definition, shape, definition.Draw(_Draw(device, torch.bfloat16)))
                narrow = _TRIALS[operation](module, shape, _Draw(device, torch.bfloat16))
                error = max(
                    float((one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1e-6))
                    for one, other in zip(narrow, wide, strict=True)
                )
                return found | {
                    "error": error,
                    "against_plain": largest_difference(operation, module, shape, device=device, dtype=torch.bfloat16),
                }

            setting.tried(measured, needs_seconds=15, kind="elementwise", operation=operation, side=side)
            free_memory(setting.device)


def _float8(setting: Setting) -> None:
    """Forward and input gradient of one large frozen matrix, in bf16 and in 8 bits."""
    import torch

    from tunesmith.worker.train.kernels.float8 import Float8Weight

    device = torch.device(setting.device)
    tokens, inward, outward = (64, 64, 96) if setting.tiny else (8192, 4096, 14336)

    def measured() -> dict[str, Any]:
        generator = torch.Generator(setting.device).manual_seed(0)
        x, weight, grad = (
            torch.randn(*size, generator=generator, device=device).to(torch.bfloat16)
            for size in ((tokens, inward), (outward, inward), (tokens, outward))
        )
        held = Float8Weight.of(weight)
        wanted = (x[:64].double() @ weight.double().T, grad[:64].double() @ weight.double())
        found = (held.product(x, None)[:64], held.input_gradient(grad)[:64])
        errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
        flops = 2 * tokens * inward * outward
        times = {
            "bf16_forward": best_seconds(lambda: x @ weight.T, setting.device),
            "float8_forward": best_seconds(lambda: held.product(x, None), setting.device),
            "bf16_backward": best_seconds(lambda: grad @ weight, setting.device),
            "float8_backward": best_seconds(lambda: held.input_gradient(grad), setting.device),
        }
        rates = {f"{name}_tflops": flops / seconds / 1e12 for name, seconds in times.items()}
        return {"error_forward": errors[0], "error_backward": errors[1], **rates}

    setting.tried(measured, needs_seconds=20, kind="float8", case=f"{tokens} x {inward} x {outward}")
    free_memory(setting.device)


class _Work:
    def __init__(self, call: Callable[[], object], moved: int) -> None:
        self.call, self.bytes = call, moved


def _work(operation: str, module: Any, setting: Setting) -> _Work:
    """Forward and backward of one operation, and the bytes that must cross memory for it."""
    import torch

    device, kind = torch.device(setting.device), torch.bfloat16
    tokens, hidden, inner, heads, size, vocabulary = (
        (64, 64, 128, 4, 16, 512) if setting.tiny else (8192, 4096, 14336, 32, 128, 128256)
    )

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=kind)

    if hasattr(module, "liger"):
        return _Work(*module.liger(operation, random, tokens=tokens, hidden=hidden, inner=inner, vocabulary=vocabulary))
    if operation == "rms_norm":
        x, residual, grad, weight = (
            random(tokens, hidden),
            random(tokens, hidden),
            random(tokens, hidden),
            random(hidden),
        )

        def norm() -> None:
            added, _, inverse = module.add_rms_norm(x, residual, weight, 1e-5, offset=False)
            module.rms_norm_backward(grad, added, weight, inverse, offset=False, residual=residual, wants_weight=False)

        return _Work(norm, 8 * x.numel() * 2)
    if operation == "gate":
        gated, other, grad = random(tokens, inner), random(tokens, inner), random(tokens, inner)

        def gate() -> None:
            module.gate(gated, other, "silu")
            module.gate_backward(grad, gated, other, "silu", uses_up=False)

        return _Work(gate, 10 * gated.numel() * 2)
    if operation == "rotate":
        x, angles = random(tokens, heads, size), random(tokens, size // 2).repeat(1, 2)
        return _Work(lambda: module.rotate(x, angles, angles, direction=1.0), 2 * x.numel() * 2)
    rows = min(tokens, 1024)
    logits, labels = random(rows, vocabulary), torch.randint(vocabulary, (rows,), device=device)
    return _Work(
        lambda: module.cross_entropy(logits, labels, softcap=None, wants_gradient=True), 3 * logits.numel() * 2
    )


def _triton() -> Any:
    return importlib.import_module("tunesmith.worker.train.kernels.triton_elementwise")


def _liger() -> Any:
    """liger-kernel's functions for the same work, where it is carried along."""
    import torch
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
    from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction
    from liger_kernel.ops.rope import LigerRopeFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    class Liger:
        @staticmethod
        def liger(
            operation: str, random: Any, *, tokens: int, hidden: int, inner: int, vocabulary: int
        ) -> tuple[Callable[[], object], int]:
            if operation == "rms_norm":
                x, residual, weight = random(tokens, hidden), random(tokens, hidden), random(hidden)
                leaves = [part.requires_grad_() for part in (x, residual)]
                return lambda: torch.autograd.grad(
                    [part.sum() for part in LigerFusedAddRMSNormFunction.apply(*leaves, weight, 1e-5)], leaves
                ), 8 * x.numel() * 2
            if operation == "gate":
                halves = [random(tokens, inner).requires_grad_() for _ in range(2)]
                return lambda: torch.autograd.grad(LigerSiLUMulFunction.apply(*halves).sum(), halves), 10 * halves[
                    0
                ].numel() * 2
            if operation == "rotate":
                query, key = random(1, 32, tokens, 128), random(1, 8, tokens, 128)
                angles = random(1, tokens, 128)
                return lambda: LigerRopeFunction.apply(query, key, angles, angles), 2 * (
                    query.numel() + key.numel()
                ) * 2
            logits = random(1024, vocabulary).requires_grad_()
            labels = torch.randint(vocabulary, (1024,), device=logits.device)
            return lambda: LigerCrossEntropyFunction.apply(logits, labels, None)[0], 3 * logits.numel() * 2

    return Liger


def _shape(numbers: dict[str, Any]) -> Any:
    from tunesmith.tuning.models.catalogue import find_shape

    return find_shape("llama-3.1-8b").model_copy(
        update={
            "heads": numbers["heads"],
            "query_size": numbers["heads"] * numbers["size"],
            "key_value_size": numbers["key_value"] * numbers["size"],
            "score_softcap": numbers.get("softcap"),
            "attention_sinks": bool(numbers.get("sinks")),
        }
    )


def _elementwise_shape(setting: Setting) -> Any:
    from benchmarks.gpu.shapes import shape_of

    return shape_of("8b", tiny=setting.tiny)


def _states(lengths: list[int], numbers: dict[str, Any], *, device: Any, dtype: Any) -> tuple[list[Any], Any]:
    import torch

    generator, tokens, size = torch.Generator().manual_seed(0), sum(lengths), numbers["size"]
    heads = (numbers["heads"], numbers["key_value"], numbers["key_value"], numbers["heads"])
    *states, grad = (torch.randn(tokens, number, size, generator=generator).to(device, dtype) for number in heads)
    return states, grad


def _outcome(attend: Callable[..., Any], states: list[Any], grad: Any) -> list[Any]:
    import torch

    leaves = [part.detach().requires_grad_() for part in states]
    output = attend(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def _wide(scores: Any) -> Any:
    return scores if scores.sinks is None else replace(scores, sinks=scores.sinks.double())


def _reference(query: Any, key: Any, value: Any, *, lengths: list[int], scores: Any) -> Any:
    """The definition in fp64, a segment at a time."""
    import torch

    groups, parts = query.shape[1] // key.shape[1], []
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    for q, k, v in _segments(query, key, value, lengths):
        products = torch.einsum("qhd,khd->hqk", q, k) * scores.scale
        if scores.softcap:
            products = scores.softcap * torch.tanh(products / scores.softcap)
        places = torch.arange(len(q), device=q.device)
        distance = places[:, None] - places
        seen = (distance >= 0) & (distance < (scores.window or len(q) + 1))
        products = products.masked_fill(~seen, float("-inf"))
        if scores.sinks is not None:
            sinks = scores.sinks[:, None, None].expand(*products.shape[:2], 1)
            products = torch.cat([products, sinks], dim=-1)
        weights = products.softmax(-1)[..., : len(q)]
        parts.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(parts)


def _segments(query: Any, key: Any, value: Any, lengths: list[int]) -> Iterator[tuple[Any, Any, Any]]:
    yield from zip(*(part.split(lengths) for part in (query, key, value)), strict=True)
