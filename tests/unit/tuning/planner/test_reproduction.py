"""A plan that runs again unchanged or is refused with every reason, and a verdict that names what differs."""

import math
from typing import Any

import pytest

from tests import plans
from tests.machines import CPU, ONE_GPU, SMALL_CPU
from tunesmith.tuning.hardware import HardwareProfile
from tunesmith.tuning.plan import MemoryEstimate, Plan, Refusal
from tunesmith.tuning.planner.pinned import replay
from tunesmith.tuning.planner.reproduction import compare
from tunesmith.tuning.values.units import GIB

MEMORY = MemoryEstimate(items={}, total_bytes=2 * GIB, budget_bytes=4 * GIB)
FIRST: dict[str, Any] = {
    "job_id": "ftjob-1",
    "plan": {"learning_rate": 1e-3, "lora": {"rank": 4}, "memory": {"budget_bytes": 5}, "reasons": []},
    "versions": {"torch": "2.13.0", "peft": "0.21.2"},
    "hardware": {"device": "A"},
    "files": {"adapter_model.safetensors": "a1", "README.md": "r1"},
}
POINTS = [{"step": 0, "valid_loss": 3.0}, {"step": 1, "train_loss": 2.0, "grad_norm": 1.0, "time": 5}]


def plan(**changes: Any) -> Plan:
    return plans.plan(**{"memory": MEMORY, **changes})


def test_a_plan_that_fits_is_returned_as_it_stands() -> None:
    assert replay(plan(), hardware=CPU) == plan()
    assert replay(plan(device="cuda", precision="bf16"), hardware=ONE_GPU) == plan(device="cuda", precision="bf16")


@pytest.mark.parametrize(
    ("changes", "hardware", "words"),
    [
        ({"device": "cuda"}, CPU, "trains on cuda, this worker on cpu"),
        ({"device": "cuda", "world_size": 2}, ONE_GPU, "needs 2 GPUs, this worker has 1"),
        ({"method": "qlora"}, CPU.model_copy(update={"installed": {}}), "needs bitsandbytes"),
        ({"zero_stage": 2}, CPU, "needs deepspeed"),
        ({}, SMALL_CPU, "needs 2.0 GiB"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_the_reason(
    changes: dict[str, Any], hardware: HardwareProfile, words: str
) -> None:
    refusal = replay(plan(**changes), hardware=hardware)
    assert isinstance(refusal, Refusal)
    assert words in refusal.text


def test_runs_of_equal_weights_and_curves_are_identical_whenever_and_wherever_they_ran() -> None:
    again = {**FIRST, "job_id": "ftjob-2", "files": {**FIRST["files"], "README.md": "r2"}}
    later = [POINTS[0], {**POINTS[1], "time": 99}]
    found = compare(FIRST, again, first_points=POINTS, second_points=later)
    assert (found.verdict, found.differences, found.first_different_step) == ("identical", (), None)
    assert found.steps_compared == 2


def test_a_verdict_names_the_step_the_size_and_the_circumstances_that_differ() -> None:
    second = {
        **FIRST,
        "plan": {**FIRST["plan"], "memory": {"budget_bytes": 6}},  # an explanation, not a circumstance
        "versions": {"torch": "2.14.0", "peft": "0.21.2"},
        "files": {"adapter_model.safetensors": "a2"},
    }
    found = compare(FIRST, second, first_points=POINTS, second_points=[POINTS[0], {**POINTS[1], "train_loss": 2.25}])
    assert found.verdict == "differs"
    assert found.largest_differences == {"train_loss": 0.25, "valid_loss": 0.0, "grad_norm": 0.0}
    assert found.first_different_step == 1
    assert [(item.what, item.first, item.second) for item in found.differences] == [
        ("versions.torch", "2.13.0", "2.14.0")
    ]
    assert not found.weights[0].is_identical


@pytest.mark.parametrize("missing", [{}, {"step": 1, "train_loss": math.nan, "grad_norm": 1.0}])
def test_a_step_that_only_one_run_recorded_is_a_difference(missing: dict[str, Any]) -> None:
    second = [POINTS[0], missing] if missing else POINTS[:1]
    found = compare(FIRST, FIRST, first_points=POINTS, second_points=second)
    assert (found.verdict, found.first_different_step) == ("differs", 1)
    assert found.largest_differences["train_loss"] is None


def test_runs_without_weights_are_never_called_identical() -> None:
    bare = {**FIRST, "files": {}}
    assert compare(bare, bare, first_points=POINTS, second_points=POINTS).verdict == "differs"
