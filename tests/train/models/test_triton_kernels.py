"""Our Triton kernels give what plain PyTorch gives, in Triton's interpreter, and compile for the GPUs that we name.

`make test-triton` brings Triton into a folder of its own and runs these; without Triton they are skipped.
"""

import importlib
import json
import os
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.models.shape import ModelShape
from tunesmith.worker.train.kernels import choice, elementwise
from tunesmith.worker.train.kernels.elementwise import OPERATIONS

CPU = torch.device("cpu")
CAPABILITIES = (80, 89, 90, 100)
SHAPES = {
    "round": {"hidden_size": 64, "heads": 4, "query_size": 64, "intermediate_size": 1024, "vocab_size": 512},
    "odd": {"hidden_size": 576, "heads": 9, "query_size": 9 * 24, "intermediate_size": 1100, "vocab_size": 4999},
    "one head": {"hidden_size": 48, "heads": 1, "query_size": 6, "intermediate_size": 7, "vocab_size": 61},
}


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    pytest.importorskip("triton", reason="Triton is not installed: make test-triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("outside of Triton's interpreter kernels need a GPU: make test-triton")
    return importlib.import_module("tunesmith.worker.train.kernels.triton_elementwise")


def shape(name: str) -> ModelShape:
    return find_shape("smollm2-135m").model_copy(update=SHAPES[name])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-5), (torch.bfloat16, 0.02), (torch.float16, 2e-3)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kernel_gives_what_plain_pytorch_gives(
    kernels: ModuleType, operation: str, dtype: torch.dtype, most: float, name: str
) -> None:
    assert choice.largest_difference(operation, kernels, shape(name), device=CPU, dtype=dtype) < most


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kernel_that_passes_its_trial_is_put_to_use(
    kernels: ModuleType, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elementwise, "_in_place_of_ours", {})
    assert choice.put_to_use(shape("round"), device=CPU, dtype=torch.bfloat16) == {}
    assert elementwise.in_use()[operation] is kernels


@pytest.mark.parametrize("operation", OPERATIONS)
def test_one_that_gives_other_numbers_or_fails_is_not(
    kernels: ModuleType, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elementwise, "_in_place_of_ours", {})
    right = getattr(kernels, operation)

    def wrong(*arguments: Any, **named: Any) -> Any:
        found = right(*arguments, **named)
        return tuple(1.1 * part for part in found) if isinstance(found, tuple) else 1.1 * found

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.\nand more")

    for stand_in, said in ((wrong, "gave other numbers"), (broken, "(RuntimeError: Failed to find C compiler.)")):
        monkeypatch.setattr(kernels, operation, stand_in)
        rejected = choice.put_to_use(shape("round"), device=CPU, dtype=torch.bfloat16)
        assert set(rejected) == {operation}
        assert said in rejected[operation]
        assert set(elementwise.in_use()) == set(OPERATIONS) - {operation}
        elementwise.use(operation, None)


def test_the_passes_learn_the_same_through_the_kernels(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of a layer's worth of passes, with every operation sent through Triton."""
    from tunesmith.worker.train.kernels import norms
    from tunesmith.worker.train.kernels.loss import Head, summed_cross_entropy

    def outcome() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(4)
        x, weight, head = (torch.randn(*size, generator=generator) for size in ((9, 32), (32,), (61, 32)))
        leaves = [part.requires_grad_() for part in (x, weight, head)]
        normal = norms.rms_norm(x, weight, 1e-5, offset=True)
        added, second = norms.add_rms_norm(norms.gate(normal, x, "silu"), x, weight, 1e-5)
        angles = torch.linspace(0, 2, 9 * 4).view(9, 4).repeat(1, 2)
        turned = norms.rotate((added + second).view(9, 4, 8), angles.cos(), angles.sin()).reshape(9, 32)
        loss = summed_cross_entropy(turned, torch.arange(9), Head(head, softcap=7.0)).loss
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    plain = outcome()
    monkeypatch.setattr(elementwise, "_in_place_of_ours", dict.fromkeys(OPERATIONS, kernels))
    monkeypatch.setattr(elementwise, "_other", lambda operation, _: elementwise.in_use()[operation])
    for one, other in zip(outcome(), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tunesmith.worker.train.kernels import triton_elementwise as ours

NUMBERS = {"epsilon": "fp32", "softcap": "fp32", "direction": "fp32"}
WHOLE = {"inverse": "*fp32", "sums": "*fp32", "losses": "*fp32", "hits": "*i32", "labels": "*i64"}
SIZES = {"rows", "size", "programs", "gated_stride", "other_stride", "token_stride", "head_stride", "heads",
         "rotated", "stride", "vocabulary"}
KINDS = {  # whole rows of a large model, and norms over heads with everything else the other way round
    "wide": {"BLOCK": 4096, "ROWS": 1, "HEADS": 32, "HALF": 64, "REST": 1, "HAS_REST": False, "HAS_OFFSET": False,
             "HAS_RESIDUAL": True, "WANTS_WEIGHT": True, "ACTIVATION": 0, "HAS_CAP": True, "WANTS_GRADIENT": True},
    "narrow": {"BLOCK": 128, "ROWS": 32, "HEADS": 4, "HALF": 16, "REST": 64, "HAS_REST": True, "HAS_OFFSET": True,
               "HAS_RESIDUAL": False, "WANTS_WEIGHT": False, "ACTIVATION": 1, "HAS_CAP": False,
               "WANTS_GRADIENT": False},
}

made = {}
for kind, name, kernel in ((kind, *one) for kind in KINDS for one in ours.kernels().items()):
    constants = {one: value for one, value in KINDS[kind].items() if one in kernel.arg_names}
    arguments = {one: NUMBERS.get(one) or WHOLE.get(one) or ("i32" if one in SIZES else "*bf16")
                 for one in kernel.arg_names if one not in constants}
    signature = arguments | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    for capability in json.loads(sys.argv[1]):
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        made[f"{name} {kind} sm_{capability}"] = len(compiled.asm["cubin"])
print(json.dumps(made))
"""


def test_every_kernel_compiles_to_machine_code_for_each_gpu() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: make test-triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, json.dumps(CAPABILITIES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout)
    assert len(made) == 2 * 6 * len(CAPABILITIES)
    assert min(made.values()) > 1000  # bytes


def test_without_triton_everything_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "_in_place_of_ours", {})
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda _: None)
    rejected = choice.put_to_use(shape("round"), device=CPU, dtype=torch.bfloat16)
    assert set(rejected) == set(OPERATIONS)
    assert rejected["rms_norm"] == "needs the package triton, which is not installed"
    assert elementwise.in_use() == {}
