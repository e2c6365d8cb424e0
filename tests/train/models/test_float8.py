"""A frozen base in 8-bit floating point: the maths by its definition, a run on it, and when the planner allows it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import plans
from tests.tiny_model import build_tiny_model
from tests.train import runs
from tests.unit.tuning import cases
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.models.catalogue import find_shape
from tunesmith.tuning.plan import Plan, Refusal
from tunesmith.tuning.words import Method
from tunesmith.worker.train.adapters import float8_base
from tunesmith.worker.train.kernels import float8
from tunesmith.worker.train.kernels.float8 import LARGEST, Float8Weight, quantize
from tunesmith.worker.train.kernels.lora_passes import adapted_linear
from tunesmith.worker.train.kernels.sites import Site

CPU = torch.device("cpu")


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_each_row_is_scaled_to_the_format_and_keeps_four_significant_bits() -> None:
    values = random(3000, 64) * torch.logspace(-6, 6, 3000)[:, None]
    narrow, scale = quantize(values)
    assert narrow.dtype == torch.float8_e4m3fn
    assert (narrow.float().abs().amax(dim=1) == LARGEST).all()
    assert (
        (narrow.float() * scale - values).abs() <= values.abs() / 16 + values.abs().amax(1, keepdim=True) * 2**-17
    ).all()


def test_a_row_of_zeros_stays_zero_and_an_outlier_spoils_its_own_row_alone() -> None:
    weight = random(4, 32)
    weight[1], weight[2, 5] = 0.0, 1e6
    held = Float8Weight.of(weight).dequantized(torch.float32)
    assert (held[1] == 0).all()
    assert torch.equal(held[[0, 3]], Float8Weight.of(weight[[0, 3]]).dequantized(torch.float32))


def test_forward_and_input_gradient_are_products_with_the_rounded_weight() -> None:
    weight, x, grad, bias = random(48, 32), random(20, 32, seed=1), random(20, 48, seed=2), random(48, seed=3)
    held = Float8Weight.of(weight)
    rounded = held.dequantized(torch.float32)
    forward, backward = held.product(x, bias), held.input_gradient(grad)
    for found, wanted in ((forward, x @ rounded.T + bias), (backward, grad @ rounded)):
        assert (found - wanted).norm() < 0.04 * wanted.norm()  # what rounding x or the gradient costs
    assert (forward - (x @ weight.T + bias)).norm() > 0


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}])
def test_adapters_over_it_learn_as_over_the_rounded_weight(changes: dict[str, Any]) -> None:
    weight, x, grad = random(48, 32), random(20, 32, seed=1), random(20, 48, seed=2)
    held = Float8Weight.of(weight)
    results = []
    for narrow in (False, True):
        base = torch.nn.Linear(32, 48).requires_grad_(False)
        base.weight.copy_(held.dequantized(torch.float32))
        base.bias.copy_(random(48, seed=3))
        if narrow:
            base.float8 = held
        down, up = (torch.nn.Parameter(random(*size, seed=4)) for size in ((4, 32), (48, 4)))
        magnitude = torch.nn.Parameter(random(48, seed=5).abs()) if changes else None
        site = Site(base, down, up, 0.5, magnitude=magnitude)
        leaf = x.clone().requires_grad_()
        output = adapted_linear(leaf, site, training=True)
        learning = [leaf, down, up] + ([] if magnitude is None else [magnitude])
        results.append([output.detach(), *torch.autograd.grad(output, learning, grad)])
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() < 0.05 * other.norm()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_a_run_over_it_learns_as_one_over_sixteen_bits_and_says_what_it_holds(tmp_path: Path, model: Path) -> None:
    curves = []
    for narrow in (False, True):
        plan = plans.plan(precision="bf16", float8_base=narrow, epochs=6)
        directory = runs.make_run(tmp_path / str(narrow), model=model, plan=plan)
        assert runs.train_here(directory) == 0
        curves.append([point["train_loss"] for point in runs.metrics(directory)])
        told = [event["message"] for event in runs.events(directory) if "8-bit" in event["message"]]
        assert told == (["14 matrices of the base are held and multiplied in 8-bit floating point."] if narrow else [])
    assert curves[1] == pytest.approx(curves[0], rel=0.02)
    assert curves[1] != curves[0]
    assert curves[1][-1] < curves[1][0] - 0.2


def test_a_device_that_multiplies_it_wrong_keeps_its_base_and_says_why(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = float8.multiply
    monkeypatch.setattr(
        float8, "multiply", lambda *a, **k: right(*a, **k) * (1.1 if calls.append(1) or len(calls) > 2 else 1)
    )
    calls: list[int] = []
    assert "gave other numbers" in str(float8_base.problem_of(CPU))
    monkeypatch.setattr(float8_base, "problem_of", lambda _: "failed their trial here (RuntimeError: no such kernel)")
    directory = runs.make_run(tmp_path, model=model, plan=plans.plan(float8_base=True, epochs=1))
    assert runs.train_here(directory) == 0
    (told,) = [event for event in runs.events(directory) if "8-bit" in event["message"]]
    assert told["level"] == "warn"
    assert told["message"].startswith("The base stays in 16 bits: 8-bit products failed their trial here")


def asked(on: str | HardwareProfile, **changes: Any) -> Plan | Refusal:
    return cases.answer("llama-3.1-8b", on, lora={"float8_base": True}, **changes)


def test_the_plan_shows_it_with_its_memory_speed_and_label() -> None:
    wide, narrow = (
        cases.answer("llama-3.1-8b", "1xH100-80G", lora={"float8_base": wanted}) for wanted in (False, True)
    )
    assert isinstance(wide, Plan)
    assert isinstance(narrow, Plan)
    assert (wide.float8_base, narrow.float8_base) == (False, True)
    assert narrow.kernels == f"{wide.kernels}/float8"
    assert "8-bit floating point, as asked" in " ".join(reason.text for reason in narrow.reasons)
    weights = find_shape("llama-3.1-8b").linear_weights
    saved = wide.memory.items["weights"] - narrow.memory.items["weights"]
    assert 0.99 * weights < saved < weights  # a byte an entry, less an fp32 scale a row
    assert narrow.time.tokens_per_second > 1.2 * wide.time.tokens_per_second


@pytest.mark.parametrize(
    ("on", "changes", "reason"),
    [
        ("1xA100-80G", {}, "needs compute capability 8.9, this GPU has 8.0"),
        ("1xH100-80G", {"method": Method.QLORA}, "which is for LoRA alone"),
        ("1xH100-80G", {"method": Method.FULL}, "which is for LoRA alone"),
        ("1xH100-80G", {"merge": True}, "cannot be merged"),
        (cases.cpu(), {}, "needs a GPU of compute capability 8.9"),
    ],
)
def test_where_it_cannot_run_the_planner_says_why(on: Any, changes: dict[str, Any], reason: str) -> None:
    decision = asked(on, **changes)
    assert isinstance(decision, Refusal)
    told = [decision.text, *(alternative.rejected_because for alternative in decision.alternatives)]
    assert any(reason in text for text in told), told
