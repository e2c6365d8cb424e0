"""What is told beside a plan and in a refusal, read as someone in a hurry reads it."""

import pytest

from tests.unit.tuning.cases import answer, data, plan
from tunesmith.tuning.plan import Refusal
from tunesmith.tuning.values.units import instead_of


def test_for_goal_cost_a_larger_machine_is_compared_by_the_time_of_all_devices() -> None:
    facts = data(20_000, tokens_per_row=500, longest=2_000)
    changes = plan("llama-3.1-8b", "4xL4", dataset=facts, goal="cost").changes
    roomier = next(change for change in changes if change.machine == "ten-gib-more")
    assert roomier.text.endswith(" of all devices together.")
    quick = plan("llama-3.1-8b", "4xL4", dataset=facts, goal="speed").changes
    assert not any("of all devices" in change.text for change in quick)


@pytest.mark.parametrize(("seconds", "told"), [(9_360, "2.6 h instead of 3.0 h"), (10_850, "as long, 3.0 h")])
def test_two_durations_that_read_the_same_are_said_to_be_as_long(seconds: float, told: str) -> None:
    assert instead_of(seconds, 10_800) == told


def test_a_refusal_begins_with_the_method_that_misses_least() -> None:
    refusal = answer("llama-3.1-70b", "1xRTX4090")
    assert isinstance(refusal, Refusal)
    assert refusal.reasons[0].text.startswith("QLoRA needs")
    assert refusal.reasons[2].text.startswith("Full fine-tuning needs")


def test_of_two_gpus_both_are_said_to_be_used() -> None:
    chosen = plan("llama-3.1-8b", "2xA100-80G")
    gpus = next(reason.text for reason in chosen.reasons if reason.rule == "gpus")
    assert gpus.startswith("Both GPUs; one alone would take ")


@pytest.mark.parametrize(("machine", "shared"), [("1xRTX4090", False), ("2xRTX4090", True)])
def test_a_refused_mixture_of_experts_is_told_why_4_bits_save_little(machine: str, shared: bool) -> None:
    refusal = answer("mixtral-8x7b", machine, method="qlora")
    assert isinstance(refusal, Refusal)
    said = {reason.rule: reason.text for reason in refusal.reasons}
    assert said["experts"].startswith("4 bits do not reach the experts, 97% of all parameters")
    assert ("GiB of experts, embeddings" in said.get("sharded-base", "")) is shared
